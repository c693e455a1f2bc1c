"""Registries as people run them: with TLS of their own, with tokens, as mirrors. All of them Debian's."""

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
from tests.e2e.test_sandboxes import check_problem
from tests.registries import tools
from tests.registries.certificates import Authority
from tests.registries.images import image, layer
from tests.registries.token_service import TokenService, token_service
from tests.registries.tools import PASSWORD, DebianRegistry


class Place(NamedTuple):
    """Registries, and the daemon that has been told of them."""

    daemon: Daemon
    trusted: DebianRegistry  # by a CA of its own
    unknown: DebianRegistry  # TLS, and nothing about it in the settings
    tokens: DebianRegistry
    mirror: DebianRegistry
    service: TokenService
    source: str  # an image, as skopeo names it


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="nsbox-registries-", dir="/var/tmp") as path:
        os.chmod(path, 0o755)
        yield Path(path)


@pytest.fixture(scope="module")
def place(folder: Path) -> Iterator[Place]:
    tools.need("/bin/busybox", "docker-registry", "skopeo", "openssl")
    program = tools.busybox()
    parts = [layer({"bin/busybox": program, "bin/sh": "busybox", "etc/os-release": b"ID=alpine\n"}, "none")]
    (folder / "image").mkdir()
    made = tools.write_layout(folder / "image", image(parts))
    authority = Authority(folder / "ca")
    certificate = authority.certificate()
    (folder / "password").write_text(f"{PASSWORD}\n")
    for path in (authority.ca_file, folder / "ca", folder / "password"):
        path.chmod(0o755)
    with (
        token_service(folder) as service,
        tools.debian_registry(tls=certificate) as trusted,
        tools.debian_registry(tls=certificate) as unknown,
        tools.debian_registry(auth=service.auth) as tokens,
        tools.debian_registry() as mirror,
    ):
        by_name = _by_name(trusted.host)
        settings = {
            by_name: {"ca_file": str(authority.ca_file)},
            trusted.host: {"insecure": False},
            tokens.host: {"username": "ann", "password_file": str(folder / "password")},
            _by_name(tokens.host): {"username": "ann", "password_file": str(folder / "nowhere")},
            "docker.io": {"mirrors": [f"{mirror.host}/hub"]},
        }
        daemon = Daemon(key=new_key(), settings={"NSBOX_REGISTRIES": json.dumps(settings)})
        try:
            yield Place(daemon.start(), trusted, unknown, tokens, mirror, service, made)
        finally:
            daemon.close()


@pytest.fixture
def api(place: Place) -> Iterator[Api]:
    with place.daemon.api() as client:
        yield client


def _by_name(host: str) -> str:
    return host.replace("127.0.0.1", "localhost")


def refused(api: Api, name: str, status: int = 502, code: str = "registry_failed") -> Any:
    answer = api.request("POST", "/sandboxes", {"image": name})
    field = None if code == "registry_failed" else "image"
    return check_problem(answer, status, code, field)


def test_tls_with_a_ca_of_ones_own(place: Place, api: Api, make_sandbox: Callable[..., Sandbox]) -> None:
    name = place.trusted.push(place.source, "tls/tiny:1")
    assert make_sandbox(image=_by_name(name)).out("/bin/busybox cat /etc/os-release") == "ID=alpine\n"
    problem = refused(api, name)  # the same server by its address, for which no CA is named
    assert "is not trusted here" in problem["detail"]
    assert "ca_file" in problem["remedy"]


def test_tls_that_nobody_told_of(place: Place, api: Api) -> None:
    """On loopback it is asked without: what the registry says to that leads to the setting."""
    problem = refused(api, place.unknown.push(place.source, "tls/tiny:1"))
    assert f"{place.unknown.host} answers 400" in problem["detail"]
    assert "ca_file" in problem["remedy"]


def test_tokens(place: Place, api: Api, make_sandbox: Callable[..., Sandbox]) -> None:
    name = place.tokens.push(place.source, "team/tiny:1")
    place.service.asked.clear()
    assert make_sandbox(image=name).out("echo in") == "in\n"
    assert ("repository:team/tiny:pull", True) in place.service.asked
    problem = refused(api, _by_name(name), 422, "image_not_available")  # whose password file is not there
    assert "credentials" in problem["remedy"]
    assert PASSWORD not in place.daemon.log()
    assert "eyJ" not in place.daemon.log(), "no token either"


def test_a_mirror_and_a_template(place: Place, api: Api, make_sandbox: Callable[..., Sandbox]) -> None:
    """`alpine` and the template of that name come from the mirror that is set for Docker Hub."""
    place.mirror.push(place.source, "hub/library/alpine:latest")
    assert not _template(api, "alpine:latest")["ready"]
    assert make_sandbox(image="alpine").out("/bin/busybox cat /etc/os-release") == "ID=alpine\n"
    assert _template(api, "alpine:latest")["ready"]
    sandbox = make_sandbox(templateId="alpine:latest", pull="never")
    assert sandbox.out("/bin/busybox cat /etc/os-release") == "ID=alpine\n"
    found = api.request("GET", "/images/alpine").json
    assert (found["image"], found["source"]) == ("docker.io/library/alpine:latest", place.mirror.host)


def _template(api: Api, name: str) -> Any:
    return next(one for one in api.request("GET", "/templates").json if one["id"] == name)
