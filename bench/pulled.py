"""A sandbox from an image that is here, beside one from the default template: it should cost the same."""

from __future__ import annotations

import http.client
import io
import tarfile
import time
from typing import Any

from bench.client import BASE, Client, RefusedError
from bench.daemon import Daemon
from bench.figures import Figure, Target
from bench.images import layout_tar
from bench.probe import Effort, Probe, now_ms, sample
from nsbox.model.image import MAX_LAYERS

#: As many layers as an image of a language usually has, and as many as there can be.
_USUAL = 6
#: Layers beneath a mount cost the kernel a little each; a create is to be the same within a tenth.
_AS_MUCH = 1.1


def measure(daemon: Daemon, effort: Effort) -> list[Figure]:
    """Imported, not pulled: once an image is here, nobody can tell the difference."""
    client = daemon.client()
    usual, tall = (_imported(daemon, count) for count in (_USUAL, MAX_LAYERS))
    wishes: tuple[dict[str, Any], ...] = (
        {},
        {"image": usual, "pull": "never"},
        {"image": tall, "pull": "never"},
    )
    figures = (
        Figure("create_default", "create, the default template"),
        Figure("create_pulled", f"create, an image of {_USUAL} layers", target=Target(10)),
        Figure("create_tall", f"create, an image of {MAX_LAYERS} layers"),
        Figure("create_pulled_ratio", "the image beside the default, in pairs", "times", Target(_AS_MUCH)),
        Figure("create_tall_ratio", f"… of {MAX_LAYERS} layers", "times"),
    )

    def once() -> tuple[float, ...]:
        taken = [_life(daemon, client, wish, effort.pause) for wish in wishes]
        return (*taken, taken[1] / taken[0], taken[2] / taken[0])

    found = sample([Probe(figures, once, max(5, effort.samples // 4))], effort.rounds)
    client.close()
    return found


def _life(daemon: Daemon, client: Client, wish: dict[str, Any], pause: float) -> float:
    daemon.wait_for_inits(daemon.pool)
    time.sleep(pause)
    begun = now_ms()
    sandbox = client.create(wish)
    taken = now_ms() - begun
    client.kill(sandbox)
    return taken


def _imported(daemon: Daemon, layers: int) -> str:
    """The name of an image of so many layers, with a few files in each."""
    name = f"bench/layers:{layers}"
    body = layout_tar([_layer(number) for number in range(layers)])
    connection = http.client.HTTPConnection(*daemon.address, timeout=120)
    try:
        headers = {"Authorization": f"Bearer {daemon.key}", "Content-Type": "application/octet-stream"}
        connection.request("POST", f"{BASE}/images/import?name={name}", body, headers)
        answer = connection.getresponse()
        said = answer.read()
        if answer.status != 200:
            raise RefusedError(f"import of an image: {answer.status} {said[:300].decode(errors='replace')}")
    finally:
        connection.close()
    return name


def _layer(number: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in (
            ("dev", "proc", "sys", "root", "tmp") if number == 0 else ()
        ):  # as all but scratch have them
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
        for each in range(20):
            file = tarfile.TarInfo(f"srv/{number}/{each}")
            file.size = 1000
            tar.addfile(file, io.BytesIO(bytes(1000)))
    return out.getvalue()
