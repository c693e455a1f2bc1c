"""Tickets for downloads by a page: one thing, once, soon, and for who asked."""

from __future__ import annotations

from urllib.parse import quote_from_bytes

import pytest

from nsbox.api import saving, tickets
from nsbox.model.errors import Problem
from tests.unit.api.client import Server, running
from tests.unit.api.fakes import KEY, OTHER_KEY, FakeKeys

ME = FakeKeys().callers[KEY]
HOSTILE = b'/a b/\xff<img src=x>&path=/etc/shadow"'


async def ticket(server: Server, sandbox_id: str, path: bytes) -> str:
    told = await server.ask(
        "POST", f"/sandboxes/{sandbox_id}/files/ticket?path={quote_from_bytes(path, safe='')}"
    )
    assert told.status == 201, told
    document = told.json()
    assert document["path"] == f"/download?ticket={document['ticket']}"
    return str(document["path"])


@pytest.mark.parametrize("path", [b"/app/index.js", HOSTILE])
async def test_a_file_is_saved_once_without_a_key(path: bytes) -> None:
    async with running() as server:
        sandbox = await server.sandbox()
        server.fakes.files.files[path] = b"contents"
        address = await ticket(server, sandbox, path)
        saved = await server.ask("GET", f"/{address}", key=None)
        assert (saved.status, saved.body) == (200, b"contents")
        assert saved.headers["content-type"] == "application/octet-stream"
        assert saved.headers["content-security-policy"].startswith("sandbox")
        assert saved.headers["cache-control"] == "no-store"
        again = await server.ask("GET", f"/{address}", key=None)
        assert (again.status, again.code) == (401, "invalid_key")


async def test_what_is_not_there_or_somebody_elses_gets_no_ticket() -> None:
    async with running() as server:
        sandbox = await server.sandbox()
        server.fakes.files.files[b"/a"] = b"x"
        at = f"/sandboxes/{sandbox}/files/ticket"
        assert (await server.ask("POST", f"{at}?path=/none")).code == "file_not_found"
        assert (await server.ask("POST", f"{at}?path=/a", key=OTHER_KEY)).code == "sandbox_not_found"
        assert (await server.ask("POST", f"{at}?path=/a", key=None)).code == "missing_key"
        assert (await server.ask("POST", at)).code == "invalid_field"
        assert (await server.ask("POST", "/snapshots/snap_none/export/ticket")).code == "snapshot_not_found"
        assert (await server.ask("POST", "/images/export/ticket?image=none")).code == "image_not_found"


async def test_a_ticket_ends_with_its_key() -> None:
    async with running() as server:
        sandbox = await server.sandbox()
        server.fakes.files.files[b"/a"] = b"x"
        address = await ticket(server, sandbox, b"/a")
        del server.fakes.keys.callers[KEY]
        assert (await server.ask("GET", f"/{address}", key=None)).code == "invalid_key"


async def test_a_ticket_is_not_used_up_by_what_is_no_download() -> None:
    async with running() as server:
        sandbox = await server.sandbox()
        server.fakes.files.files[b"/a"] = b"x"
        address = await ticket(server, sandbox, b"/a")
        assert (await server.ask("POST", f"/{address}", key=None)).code == "method_not_allowed"
        assert (await server.ask("GET", f"/{address}&path=/b", key=None)).code == "invalid_request"
        assert (await server.ask("GET", "//download", key=None)).code == "invalid_key"
        assert (await server.ask("GET", "//download?ticket=", key=None)).code == "invalid_key"
        assert (await server.ask("GET", f"/{address}", key=None)).status == 200


def test_tickets_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(tickets.time, "monotonic", lambda: now[0])
    ours = saving.Saving()
    made = ours.make(ME, "/api/v1/x", b"")
    assert ours.take(made).path == "/api/v1/x"
    made = ours.make(ME, "/api/v1/x", b"")
    now[0] += tickets.KEEP_S + 1
    with pytest.raises(Problem, match="not known"):
        ours.take(made)


def test_many_tickets_push_the_oldest_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickets, "_MOST", 3)
    ours = saving.Saving()
    first, *others = [ours.make(ME, "/x", b"") for _ in range(4)]
    with pytest.raises(Problem):
        ours.take(first)
    for one in others:
        ours.take(one)
