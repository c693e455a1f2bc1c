"""What people copy from the documentation works, run by the programs they would run it with."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import new_key
from tests.e2e.client import Api, Sandbox
from tests.e2e.daemon import Daemon
from tests.e2e.readers import curl, filled, node, node_exec, output
from tests.e2e.seed_snippets import PYTHON
from tests.registries import tools
from tests.registries.fake import FakeRegistry, serving
from tests.registries.images import image, layer

pytest.importorskip("requests", reason="the Python snippet needs requests")


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeRegistry]:
    """The images that the snippets name, small ones, in a registry that stands in for Docker Hub."""
    program = tools.busybox()
    with serving() as registry:
        for name, tag in (("node", "22-alpine"), ("python", "3.12-slim")):
            made = image([layer({"bin/busybox": program, "bin/sh": "busybox", "name": name.encode()})])
            registry.push(f"library/{name}", made, tag)
        yield registry


@pytest.fixture(scope="module")
def mirrored(hub: FakeRegistry) -> Iterator[Api]:
    """A daemon that asks the stand-in where a reference has no registry in it."""
    daemon = Daemon(key=new_key())
    config = Path(daemon.state_dir, "mirrors.toml")
    config.write_text(f'[registries."docker.io"]\nmirrors = ["{hub.host}"]\n')
    daemon.settings["NSBOX_CONFIG"] = str(config)
    try:
        with daemon.start().api() as client:
            yield client
    finally:
        daemon.close()


def check_image(api: Api, answer: dict[str, Any], name: str) -> None:
    assert answer["status"] == "running", answer
    try:
        assert Sandbox(api, answer["id"]).out("busybox cat /name") == name
    finally:
        api.kill(answer["id"])


def test_curl_creates_a_sandbox_with_defaults(api: Api) -> None:
    answer = curl("create", api)
    try:
        assert answer["status"] == "running"
        assert (answer["vcpus"], answer["memoryMb"], answer["timeoutMs"]) == (1, 512, 1_800_000)
    finally:
        api.kill(answer["id"])


def test_curl_runs_a_command(api: Api, sandbox: Sandbox) -> None:
    answer = curl("exec", api, sandbox.id)
    assert (answer["stdout"], answer["stderr"], answer["exitCode"]) == ("Hello\n4\n", "", 0)
    assert isinstance(answer["durationMs"], int)


def test_curl_writes_reads_and_lists_a_file(api: Api, sandbox: Sandbox) -> None:
    written = curl("write", api, sandbox.id)
    assert (written["path"], written["written"]) == ("/app/hello.py", True)
    read = curl("read", api, sandbox.id)
    assert (read["path"], read["content"]) == ("/app/hello.py", 'print("Hello from sandbox!")')
    listed = curl("list", api, sandbox.id)
    assert (listed["path"], listed["files"]) == ("/app", ["hello.py"])


def test_curl_kills_the_sandbox(api: Api) -> None:
    sandbox_id = api.create()
    assert curl("kill", api, sandbox_id) == {"id": sandbox_id, "status": "stopped"}


def test_curl_creates_a_sandbox_from_an_image(mirrored: Api) -> None:
    check_image(mirrored, curl("image", mirrored), "node")


def test_python_creates_a_sandbox(api: Api) -> None:
    sandbox_id = output([sys.executable, "-I", "-"], filled(PYTHON["create"], api)).strip()
    assert api.get(sandbox_id)["status"] == "running"
    api.kill(sandbox_id)


def test_node_creates_a_sandbox(api: Api) -> None:
    sandbox_id, status = node("create", api, "", "console.log(sandbox.id, sandbox.status)").split()
    assert status == "running"
    api.kill(sandbox_id)


def test_node_installs_a_package_and_hears_the_truth(api: Api) -> None:
    """Where there is no way out pip fails, and the answer says so in pip's own words and with its exit code.
    Where there is one: ``test_pip``."""
    sandbox = api.sandbox(network={"mode": "off"})
    answer = node_exec(api, sandbox.id)
    api.kill(sandbox.id)
    assert (answer["http"], answer["exitCode"]) == (200, 1), answer
    assert "pandas" in answer["stderr"]


def test_node_writes_a_file_and_runs_it(api: Api, sandbox: Sandbox) -> None:
    assert node("write and run", api, f"const id = '{sandbox.id}';\n", "") == "Hello from sandbox!\n\n"


def test_node_kills_the_sandbox(api: Api) -> None:
    sandbox_id = api.create()
    node("kill", api, f"const sandbox = {{ id: '{sandbox_id}' }};\n", "")
    assert api.get(sandbox_id)["status"] == "stopped"


def test_node_creates_a_sandbox_from_an_image(mirrored: Api) -> None:
    answer = json.loads(node("image", mirrored, "", "console.log(await res.text())"))
    check_image(mirrored, answer, "python")
