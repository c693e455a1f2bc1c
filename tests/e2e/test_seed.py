"""What people copy from the documentation works, run by the programs they would run it with."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import Any

import pytest

from tests.e2e.client import Api, Sandbox
from tests.e2e.seed_snippets import CURL, NODE, PUBLISHED_URL, PYTHON

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


def test_curl_asks_for_an_image_that_is_not_here(api: Api) -> None:
    answer = curl("image", api)
    assert answer["status"] == 422
    assert (answer["code"], answer["field"]) == ("image_not_available", "image")
    assert "default" in answer["available"]
    assert "node:22-alpine" in answer["detail"]


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


def test_node_asks_for_an_image_that_is_not_here(api: Api) -> None:
    answer = json.loads(node("image", api, "", "console.log(await res.text())"))
    assert (answer["status"], answer["code"], answer["field"]) == (422, "image_not_available", "image")
    assert "default" in answer["available"]
