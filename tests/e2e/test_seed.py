"""What people copy from the documentation works, run by the programs they would run it with."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import new_key
from tests.e2e.client import Api, Sandbox
from tests.e2e.daemon import Daemon
from tests.e2e.seed_snippets import CURL, NODE, PUBLISHED_URL, PYTHON
from tests.registries import tools
from tests.registries.fake import FakeRegistry, serving
from tests.registries.images import image, layer

pytest.importorskip("requests", reason="the Python snippet needs requests")


def filled(snippet: str, api: Api, sandbox_id: str = "") -> str:
    """The snippet with a reader's own base URL, key and sandbox in it."""
    assert api.key is not None
    words = {PUBLISHED_URL: f"{api.url}/api/v1", "YOUR_API_KEY": api.key, "SANDBOX_ID": sandbox_id}
    for word, value in words.items():
        snippet = snippet.replace(word, value)
    return snippet


def output(command: list[str], text: str = "") -> str:
    """Proxies of the machine are left out: the daemon is on this very host."""
    clean = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, timeout=60, check=False, env=clean
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def curl(name: str, api: Api, sandbox_id: str = "") -> Any:
    if not shutil.which("curl", path="/usr/bin:/bin"):
        pytest.skip("no curl on this host")
    return json.loads(output(["bash", "-c", filled(CURL[name], api, sandbox_id)]))


def node(name: str, api: Api, before: str, after: str) -> str:
    """A module, since the snippets use await at the top; ``before`` is what an earlier snippet made."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("no node on this host")
    return output([program, "--input-type=module"], before + filled(NODE[name], api) + after)


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeRegistry]:
    """The images that the snippets name, small ones, in a registry that stands in for Docker Hub."""
    tools.need("/bin/busybox")
    program = Path("/bin/busybox").read_bytes()
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


def test_node_installs_a_package_and_hears_the_truth(api: Api, sandbox: Sandbox) -> None:
    """Without a network pip fails, and the answer says so in pip's own words and with its exit code."""
    before = f"const sandbox = {{ id: '{sandbox.id}' }};\n"
    after = "console.log(JSON.stringify({ http: exec.status, ...result }))"
    answer = json.loads(node("exec", api, before, after))
    assert answer["http"] == 200, answer
    print(f"pip without a network: exit code {answer['exitCode']} after {answer['durationMs']} ms")
    if answer["exitCode"] == 0:
        assert answer["stdout"].strip().splitlines()[-1][0].isdigit()  # a host that gives a network
        return
    assert answer["exitCode"] == 1
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
