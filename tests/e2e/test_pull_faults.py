"""api, or all of the daemon, is killed at each step of a pull: what is on disk stays consistent, and the next
pull succeeds.

And a registry that lies to a real daemon: a clear error, and nothing left.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import new_key
from tests.e2e.client import BASE, Answer, Api
from tests.e2e.daemon import Daemon, wait_until
from tests.registries import tools
from tests.registries.fake import FakeRegistry, Handler, serving
from tests.registries.images import OCI_MANIFEST, MadeImage, image, layer


@pytest.fixture(scope="module")
def daemon(own_daemon: Daemon) -> Daemon:
    return own_daemon


@pytest.fixture(scope="module")
def other_daemon() -> Iterator[Daemon]:
    """An api that dies young often is restarted ever more slowly: the kills are shared out."""
    one = Daemon(key=new_key())
    try:
        yield one.start()
    finally:
        one.close()


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with serving() as one:
        yield one


@pytest.fixture(scope="module")
def busybox() -> bytes:
    return tools.busybox()


def fresh(busybox: bytes, more: int = 300) -> MadeImage:
    """An image whose layers no earlier test has had: two, one of them with many files."""
    mark = os.urandom(8)
    files: dict[str, bytes | str | None] = {f"f/{number}": mark + b"x" * 2000 for number in range(more)}
    # What cannot be packed, so that half of a blob is more than is written at once.
    first, second = os.urandom(3 << 20), os.urandom(3 << 20)
    return image(
        [
            layer({"bin/busybox": busybox, "bin/sh": "busybox", "mark": first}),
            layer({**files, "mark": second}),
        ]
    )


def state(daemon: Daemon, folder: str) -> list[str]:
    return sorted(os.listdir(os.path.join(daemon.state_dir, folder)))


def own_layers(daemon: Daemon) -> list[str]:
    return [name for name in state(daemon, "layers") if name.startswith("i-")]


def clean(daemon: Daemon, api: Api) -> None:
    """After pruning nothing of any image is left, whole or half."""
    assert api.request("POST", "/images/prune", {"all": True}).status == 200
    assert api.request("GET", "/images").json["images"] == []
    wait_until(lambda: own_layers(daemon) == [], 10, f"layers are left: {own_layers(daemon)}")
    assert state(daemon, "blobs") == []
    assert state(daemon, "library") == []


def works(api: Api, name: str) -> None:
    answer = api.request("POST", "/sandboxes", {"image": name})
    assert answer.status == 201, answer
    path = f"/sandboxes/{answer.json['id']}"
    command = {"command": "cd /f && /bin/busybox ls | /bin/busybox wc -l"}
    assert api.request("POST", f"{path}/exec", command).json["stdout"] == "300\n"
    assert api.request("DELETE", path).status == 200


@contextlib.contextmanager
def asking(daemon: Daemon, name: str) -> Iterator[None]:
    """A client that waits for a sandbox from an image, and loses its connection when api dies."""

    def ask() -> None:
        _once(daemon, "POST", "/sandboxes", {"image": name})

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        thread.join(60)


def killed(daemon: Daemon) -> None:
    daemon.kill(daemon.api_pid, signal.SIGKILL)
    daemon.wait_ready()


def all_killed(daemon: Daemon) -> None:
    """What a power cut leaves of processes: none. What it does to files that were not synced is not shown."""
    daemon.kill(daemon.pid, signal.SIGKILL)
    daemon.wait(30)
    daemon.stop()
    daemon.start()


def _held(registry: FakeRegistry, part: str, before: Callable[[Handler], None]) -> threading.Event:
    """Requests whose path has ``part`` do ``before``, and then nothing until the test is over; an event that
    tells when one has come so far."""
    reached = threading.Event()

    def hold(handler: Handler) -> None:
        if part not in handler.path:
            handler.honest()
            return
        before(handler)
        reached.set()
        registry.stopping.wait(60)

    registry.lies["*"] = hold
    return reached


def _half(registry: FakeRegistry) -> Callable[[Handler], None]:
    def send(handler: Handler) -> None:
        data, kind = registry.documents[handler.path]
        handler.reply(200, data[: len(data) // 2], kind, length=len(data))
        handler.wfile.flush()

    return send


STEPS: dict[str, tuple[int, bool]] = {
    "manifest": (0, False),
    "config": (1, False),
    "first layer": (2, False),
    "half a layer": (2, True),
    "second layer": (3, False),
    "half of the second": (3, True),
}


@pytest.mark.parametrize("kill", [killed, all_killed], ids=["api", "all"])
@pytest.mark.parametrize("step", STEPS)
def test_killed_while_it_fetches(
    daemon: Daemon, registry: FakeRegistry, busybox: bytes, step: str, kill: Callable[[Daemon], None]
) -> None:
    made = fresh(busybox)
    name = registry.push("a", made)
    number, half = STEPS[step]
    config = next(digest for digest, data in made.blobs.items() if data == made.config)
    part = ("manifests/", config, made.layers[0].digest, made.layers[1].digest)[number]
    reached = _held(registry, part, _half(registry) if half else lambda _: None)
    with asking(daemon, name):
        assert reached.wait(30)
        if half:
            wait_until(lambda: _parts(daemon), 10, "a half")
        kill(daemon)
    left = _parts(daemon)
    registry.lies.clear()
    registry.asked.clear()
    with daemon.api() as api:
        assert api.request("GET", "/images").json["images"] == []
        works(api, name)
        clean(daemon, api)
    resumed = {one.range for one in registry.asked if one.range}
    assert resumed <= {f"bytes={size}-" for size in left}
    assert resumed or not half, "what was there is not fetched again"


def _parts(daemon: Daemon) -> list[int]:
    """How much there is of halves of blobs: those that have been written to."""
    folder = os.path.join(daemon.state_dir, "blobs")
    sizes = [
        os.stat(os.path.join(folder, name)).st_size for name in state(daemon, "blobs") if ".part" in name
    ]
    return [size for size in sizes if size]


@pytest.mark.parametrize("kill", [killed, all_killed], ids=["api", "all"])
def test_killed_while_a_layer_is_unpacked(
    other_daemon: Daemon, registry: FakeRegistry, busybox: bytes, kill: Callable[[Daemon], None]
) -> None:
    """The worker is not api's child: it notices, and gives up or is done; the next pull finds either."""
    daemon = other_daemon
    made = fresh(busybox)
    name = registry.push("a", made)
    with asking(daemon, name):
        wait_until(lambda: own_layers(daemon), 20, "a layer")
        kill(daemon)
    with daemon.api() as api:
        works(api, name)
        clean(daemon, api)


def test_api_is_killed_at_any_time(other_daemon: Daemon, registry: FakeRegistry, busybox: bytes) -> None:
    """At moments spread over a whole pull, the same image: what one left the next goes on with."""
    daemon = other_daemon
    made = fresh(busybox)
    name = registry.push("a", made)
    chance = random.Random(4)
    kills = 4
    for _ in range(kills):
        with asking(daemon, name):
            time.sleep(chance.uniform(0, 0.25))  # any moment is right
            killed(daemon)
        with daemon.api() as api:
            for one in api.request("GET", "/images").json["images"]:
                assert len(one["layers"]) == 2, "a record is there only when all of it is"
            if chance.random() < 0.5:
                _end_all(api)
                clean(daemon, api)
    with daemon.api() as api:
        works(api, name)
        _end_all(api)
        clean(daemon, api)
    print(f"kills of api at random times of a pull: {kills}; every next pull succeeded")


def _end_all(api: Api) -> None:
    for one in api.request("GET", "/sandboxes").json:
        api.kill(one["id"])


def test_kill_while_a_layer_is_removed(other_daemon: Daemon, registry: FakeRegistry, busybox: bytes) -> None:
    """A half-removed layer has not its own name any more."""
    daemon = other_daemon
    made = fresh(busybox)
    name = registry.push("a", made)
    with daemon.api() as api:
        works(api, name)
    thread = threading.Thread(target=_remove, args=[daemon, name])
    thread.start()
    killed(daemon)
    thread.join(60)
    with daemon.api() as api:
        works(api, name)
        clean(daemon, api)


def _remove(daemon: Daemon, name: str) -> None:
    _once(daemon, "DELETE", f"/images/{name}", None)


def _once(daemon: Daemon, method: str, path: str, body: object) -> None:
    """A request that is lost when api dies; ``Api`` would send it again, to the next api."""
    connection = http.client.HTTPConnection(daemon.url.partition("//")[2], timeout=60)
    headers = {"Authorization": f"Bearer {daemon.key}", "Content-Type": "application/json"}
    try:
        connection.request(method, BASE + path, json.dumps(body) if body else None, headers)
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        pass
    finally:
        connection.close()


def test_a_create_waits_for_so_long_and_no_longer(
    daemon_factory: Callable[..., Daemon], registry: FakeRegistry, busybox: bytes
) -> None:
    """It is told what came of it, and that asking again goes on with what there is."""
    daemon = daemon_factory(settings={"image_pull_timeout_s": "8"})
    made = fresh(busybox)
    name = registry.push("a", made)
    _held(registry, made.layers[1].digest, _half(registry))
    with daemon.api() as api:
        answer = api.request("POST", "/sandboxes", {"image": name})
        assert (answer.status, answer.code) == (504, "pull_timed_out"), answer
        assert answer.json["detail"] == f"{name} was not there within 8 s"
        assert "is kept" in answer.json["remedy"]
        assert api.request("GET", "/sandboxes").json == []
        registry.lies.clear()
        registry.asked.clear()
        wait_until(lambda: api.request("POST", "/sandboxes", {"image": name}).status == 201, 60)
        assert not registry.paths(made.layers[0].digest), "a layer that was whole is not fetched again"
        assert any(one.range for one in registry.asked if made.layers[1].digest in one.path)
        _end_all(api)


# ---- lies

Lying = Callable[[Handler, MadeImage], None]


def _as(status: int, body: bytes, kind: str = OCI_MANIFEST, **headers: str) -> Lying:
    return lambda handler, _: handler.reply(
        status, body, kind, {name.replace("_", "-"): value for name, value in headers.items()}
    )


def _endless(handler: Handler, _: MadeImage) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    while not handler.registry.stopping.is_set():
        handler.wfile.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")


def _longer(handler: Handler, made: MadeImage) -> None:
    handler.reply(200, made.layers[0].blob + b"x")


LIES: dict[str, tuple[str, Lying, tuple[int, str]]] = {
    "a blob of other bytes": (
        "blob", lambda h, made: h.reply(200, bytes(len(made.layers[0].blob))), (502, "registry_failed"),
    ),
    "a longer blob": ("blob", _longer, (502, "registry_failed")),
    "an endless blob": ("blob", _endless, (502, "registry_failed")),
    "a blob at file://": ("blob", lambda h, _: h.redirect("file:///etc/shadow"), (502, "registry_failed")),
    "a blob in circles": ("blob", lambda h, _: h.redirect(h.path), (502, "registry_failed")),
    "a manifest of 10 MB": ("manifest", _as(200, b" " * 10_000_000), (502, "registry_failed")),
    "an endless manifest": ("manifest", _endless, (502, "registry_failed")),
    "a web page": ("manifest", _as(200, b"<html>", "text/html"), (422, "image_refused")),
    "another digest": (
        "manifest", _as(200, b"{}", Docker_Content_Digest="sha256:" + "0" * 64), (502, "registry_failed"),
    ),
    "a manifest at file://": (
        "manifest", lambda h, _: h.redirect("file:///etc/passwd"), (502, "registry_failed"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_registry_that_lies(
    daemon: Daemon, api: Api, registry: FakeRegistry, busybox: bytes, lie: str
) -> None:
    made = fresh(busybox, 2)
    name = registry.push("a", made)
    where, tell, expected = LIES[lie]
    path = f"/v2/a/blobs/{made.layers[0].digest}" if where == "blob" else "/v2/a/manifests/latest"
    registry.lies[path] = lambda handler: tell(handler, made)
    answer = api.request("POST", "/sandboxes", {"image": name})
    _check(answer, expected, name)
    assert api.request("GET", "/sandboxes").json == []
    clean(daemon, api)
    registry.lies.clear()
    created = api.request("POST", "/sandboxes", {"image": name})
    assert created.status == 201, created
    api.kill(created.json["id"])
    clean(daemon, api)


def _check(answer: Answer, expected: tuple[int, str], name: str) -> None:
    assert (answer.status, answer.code) == expected, answer
    problem: dict[str, Any] = answer.json
    assert name in problem["detail"]
    assert "root:" not in problem["detail"]


def test_a_wrong_diff_id(daemon: Daemon, api: Api, registry: FakeRegistry, busybox: bytes) -> None:
    """The blob is what the manifest says, and its contents are not what the config says."""
    honest = fresh(busybox, 2)
    made = image(list(honest.layers), rootfs=[one.diff_id for one in reversed(honest.layers)])
    name = registry.push("a", made)
    answer = api.request("POST", "/sandboxes", {"image": name})
    _check(answer, (422, "image_refused"), name)
    assert answer.json["reason"] == "digest"
    clean(daemon, api)
