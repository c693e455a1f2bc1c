"""Images and snapshots are pushed to Debian's own registry, removed here, and come back as they were."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.conftest import new_key
from tests.e2e.client import Api, Sandbox
from tests.e2e.daemon import Daemon
from tests.registries import tools
from tests.registries.images import image, layer
from tests.registries.token_service import TokenService, token_service
from tests.registries.tools import PASSWORD, DebianRegistry


class Place(NamedTuple):
    """Registries, and the daemon that has been told of them."""

    daemon: Daemon
    open: DebianRegistry  # to everybody
    login: DebianRegistry  # by name and password
    tokens: DebianRegistry
    service: TokenService
    source: str  # an image, as skopeo names it


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="nsbox-push-", dir="/var/tmp") as path:
        os.chmod(path, 0o755)
        yield Path(path)


@pytest.fixture(scope="module")
def place(folder: Path) -> Iterator[Place]:
    tools.need("/bin/busybox", "docker-registry", "skopeo", "openssl")
    program = tools.busybox()
    parts = [
        layer({"bin/busybox": program, "bin/sh": "busybox", "gone": b"1", "etc/os-release": b"ID=alpine\n"}),
        layer({".wh.gone": b"", "srv/kept": os.urandom(200_000)}),
    ]
    (folder / "image").mkdir()
    made = image(parts, Env=["GREETING=hello"], WorkingDir="/srv", Cmd=["/bin/sh"], Labels={"a": "b"})
    source = tools.write_layout(folder / "image", made)
    (folder / "password").write_text(f"{PASSWORD}\n")
    (folder / "password").chmod(0o644)
    with (
        token_service(folder) as service,
        tools.debian_registry() as anybody,
        tools.debian_registry(login=True) as login,
        tools.debian_registry(auth=service.auth) as tokens,
    ):
        known = {"username": "ann", "password_file": str(folder / "password")}
        registries = {login.host: known, tokens.host: known}
        settings = {
            "NSBOX_REGISTRIES": json.dumps(registries),
            "NSBOX_IMAGES_ALLOWED": ",".join(f"{one.host}/*" for one in (anybody, login, tokens)),
        }
        daemon = Daemon(key=new_key(), settings=settings)
        try:
            yield Place(daemon.start(), anybody, login, tokens, service, source)
        finally:
            daemon.close()


@pytest.fixture
def api(place: Place) -> Iterator[Api]:
    with place.daemon.api() as client:
        yield client


def push(api: Api, name: str, to: str) -> Any:
    answer = api.request("POST", "/images/push", {"image": name, "to": to})
    assert answer.status == 200, answer
    assert answer.json["image"] == to
    return answer.json


def outcomes(pushed: Any) -> list[str]:
    return [one["outcome"] for one in pushed["layers"]]


def inspected(registry: DebianRegistry, name: str, *more: str) -> Any:
    login = ["--creds", f"ann:{PASSWORD}"] if registry._auth else []
    text = tools.run("skopeo", "inspect", "--tls-verify=false", *login, *more, f"docker://{name}")
    return json.loads(text)


def snapshot(sandbox: Sandbox) -> str:
    answer = sandbox.request("POST", "/snapshots", {"name": "pushed"})
    assert answer.status == 201, answer
    return str(answer.json["id"])


def test_an_image_goes_and_comes_back(place: Place, api: Api, make_sandbox: Callable[..., Sandbox]) -> None:
    """To another registry than its own: packed anew, taken by skopeo, and the same when it is pulled."""
    own = place.open.push(place.source, "from/tiny:1")
    sandbox = make_sandbox(image=own)
    before = sandbox.out("/bin/busybox sha256sum /srv/kept; /bin/busybox ls -la /; echo $GREETING")
    to = f"{place.login.host}/team/tiny:2"
    pushed = push(api, own, to)
    assert outcomes(pushed) == ["uploaded", "uploaded"]
    assert pushed["sentBytes"] == sum(one["sizeBytes"] for one in pushed["layers"])
    seen = inspected(place.login, to)
    assert seen["Digest"] == pushed["digest"]
    assert (seen["Labels"], seen["Env"]) == ({"a": "b"}, ["GREETING=hello"])
    assert outcomes(push(api, own, to)) == ["present", "present"]
    sandbox.api.kill(sandbox.id)
    assert api.request("DELETE", f"/images/{own}").status == 200
    again = make_sandbox(image=to)
    assert again.out("/bin/busybox sha256sum /srv/kept; /bin/busybox ls -la /; echo $GREETING") == before
    assert PASSWORD not in place.daemon.log()
