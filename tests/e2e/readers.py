"""Somebody who copies a snippet from the documentation and runs it."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest

from tests.e2e.client import Api
from tests.e2e.seed_snippets import CURL, NODE, PUBLISHED_URL


def filled(snippet: str, api: Api, sandbox_id: str = "") -> str:
    """The snippet with a reader's own base URL, key and sandbox in it."""
    assert api.key is not None
    words = {PUBLISHED_URL: f"{api.url}/api/v1", "YOUR_API_KEY": api.key, "SANDBOX_ID": sandbox_id}
    for word, value in words.items():
        snippet = snippet.replace(word, value)
    return snippet


def output(command: list[str], text: str = "", patience: float = 60) -> str:
    """Proxies of the machine are left out: the daemon is on this very host."""
    clean = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, timeout=patience, check=False, env=clean
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def curl(name: str, api: Api, sandbox_id: str = "") -> Any:
    if not shutil.which("curl", path="/usr/bin:/bin"):
        pytest.skip("no curl on this host")
    return json.loads(output(["bash", "-c", filled(CURL[name], api, sandbox_id)]))


def node(name: str, api: Api, before: str, after: str, patience: float = 60) -> str:
    """A module, since the snippets use await at the top; ``before`` is what an earlier snippet made."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("no node on this host")
    return output(
        [program, "--input-type=module"], before + filled(NODE[name], api) + after, patience=patience
    )


def node_exec(api: Api, sandbox_id: str, patience: float = 60) -> dict[str, Any]:
    """The snippet that installs pandas in a sandbox; the answer, and its status as ``http``."""
    before = f"const sandbox = {{ id: '{sandbox_id}' }};\n"
    after = "console.log(JSON.stringify({ http: exec.status, ...result }))"
    answer: dict[str, Any] = json.loads(node("exec", api, before, after, patience))
    return answer
