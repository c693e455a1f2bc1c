# ruff: noqa: E501 - answers are shown as they come
"""The two clients have the same methods, and docs/client.md has them all."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from nsbox.client import types
from nsbox.client.asynchronous import attached as tasks_attached
from nsbox.client.asynchronous import client as tasks_client
from nsbox.client.asynchronous import files as tasks_files
from nsbox.client.asynchronous import images as tasks_images
from nsbox.client.asynchronous import processes as tasks_processes
from nsbox.client.asynchronous import sandbox as tasks_sandbox
from nsbox.client.asynchronous import streams as tasks_streams
from nsbox.client.blocking import attached, client, files, images, processes, sandbox, streams
from nsbox.client.routes import accounts

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
    (attached.Attached, tasks_attached.AsyncAttached),
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


@pytest.mark.parametrize(
    "name", [name for name in types.__all__ if hasattr(getattr(types, name), "__struct_fields__")]
)
def test_every_answer_can_be_read(name: str) -> None:
    """msgspec looks at a type when it is used first."""
    msgspec.json.Decoder(getattr(types, name))


def test_the_answers_of_accounts() -> None:
    """In the shapes that docs/api.md gives them."""
    usage = b'{"from":"2026-11-01T00:00:00.000Z","to":"2026-12-01T00:00:00.000Z","by":"key","computeSeconds":7,"usage":[{"keyId":null,"computeSeconds":3},{"keyId":"key_1","computeSeconds":4}]}'
    read = accounts.usage("", by="key").parse(usage)
    assert (read.from_.year, read.usage[1].key_id, read.usage[1].compute_seconds) == (2026, "key_1", 4)
    audit = b'{"events":[{"id":"ev_1","at":"2026-11-01T00:00:00.000Z","action":"sandbox.create","from":"::1","status":201}],"next":null}'
    assert accounts.audit("").parse(audit).events[0].from_ == "::1"
    made = b'{"id":"key_1","name":"n","scopes":["files"],"expiresAt":null,"key":"nsbox_x"}'
    assert accounts.create_key("", "n").parse(made).key == "nsbox_x"


def test_the_queries_of_accounts() -> None:
    begin = datetime(2026, 11, 1, 12, tzinfo=UTC)
    assert accounts.usage("", from_="2026-11-01", by="day").target == "/usage?from=2026-11-01&by=day"
    assert (
        accounts.usage("", from_=begin.date(), to=begin).query
        == "from=2026-11-01&to=2026-11-01T12%3A00%3A00Z"
    )
    assert accounts.audit("", limit=3, sandbox_id="sb_1").target == "/audit?limit=3&sandboxId=sb_1"
    assert accounts.keys("", all=True).target == "/keys?all=true"


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
