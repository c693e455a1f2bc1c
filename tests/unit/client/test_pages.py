"""The two clients have the same methods, and docs/client.md has them all."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nsbox.client.asynchronous import client as tasks_client
from nsbox.client.asynchronous import files as tasks_files
from nsbox.client.asynchronous import images as tasks_images
from nsbox.client.asynchronous import processes as tasks_processes
from nsbox.client.asynchronous import sandbox as tasks_sandbox
from nsbox.client.asynchronous import streams as tasks_streams
from nsbox.client.blocking import client, files, images, processes, sandbox, streams

_TOP = Path(__file__).parents[3]
TWINS = [
    (client.Client, tasks_client.AsyncClient),
    (client.Keys, tasks_client.AsyncKeys),
    (client.Users, tasks_client.AsyncUsers),
    (sandbox.Sandbox, tasks_sandbox.AsyncSandbox),
    (sandbox.Ports, tasks_sandbox.AsyncPorts),
    (files.Files, tasks_files.AsyncFiles),
    (processes.Processes, tasks_processes.AsyncProcesses),
    (processes.Process, tasks_processes.AsyncProcess),
    (images.Images, tasks_images.AsyncImages),
    (images.Templates, tasks_images.AsyncTemplates),
    (images.Snapshots, tasks_images.AsyncSnapshots),
    (streams.CommandStream, tasks_streams.AsyncCommandStream),
]


def public(kind: type) -> list[str]:
    return [name for name in vars(kind) if not name.startswith("_")]


@pytest.mark.parametrize(("one", "other"), TWINS)
def test_the_twins_have_the_same_methods_with_the_same_parameters(one: type, other: type) -> None:
    assert public(one) == public(other)
    for name in public(one):
        first, second = vars(one)[name], vars(other)[name]
        if inspect.isfunction(first) and inspect.isfunction(second):
            assert list(inspect.signature(first).parameters) == list(inspect.signature(second).parameters), (
                name
            )
        elif hasattr(first, "_route"):
            assert first._route is second._route, name
            assert first.__doc__, name


@pytest.mark.parametrize("kind", [one for one, _ in TWINS])
def test_every_method_is_on_the_page(kind: type) -> None:
    page = (_TOP / "docs" / "client.md").read_text()
    missing = [name for name in public(kind) if not re.search(rf"\.{name}\b", page)]
    assert missing == []


def test_the_types_are_shipped() -> None:
    assert (_TOP / "nsbox" / "py.typed").exists()


def test_the_client_needs_nothing_of_the_daemon() -> None:
    """Nor does whoever uses no tasks pay for trio."""
    code = "import sys, nsbox.client; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(done.stdout.split())
    ours = {name for name in loaded if name.startswith("nsbox")}
    assert {name for name in ours if not name.startswith("nsbox.client")} == {"nsbox"}
    assert not loaded & {
        "httpx2",
        "httpcore2",
        "trio",
        "anyio",
        "asyncio",
        "click",
        "quart",
        "prctl",
        "sqlite3",
    }
