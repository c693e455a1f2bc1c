from __future__ import annotations

import h11
import pytest

from nsbox.model.errors import Code, Problem
from tests.unit.api.client import Answer, Server, running
from tests.unit.api.fakes import OTHER_KEY


async def made(server: Server) -> str:
    answer = await server.ask("POST", "/sandboxes", {"envVars": {"A": "1"}})
    return str(answer.json()["id"])


async def taken(server: Server, sandbox: str, **wish: object) -> Answer:
    return await server.ask("POST", f"/sandboxes/{sandbox}/snapshots", wish)


async def test_take_look_and_remove() -> None:
    async with running() as server:
        sandbox = await made(server)
        answer = await taken(server, sandbox, name="first", consistent=True)
        view = answer.json()
        assert (answer.status, answer.headers["location"]) == (201, "/api/v1/snapshots/snap_one")
        assert (view["id"], view["name"], view["sandboxId"]) == ("snap_one", "first", sandbox)
        assert (view["processes"], view["durable"], view["layers"]) == ("frozen", True, 2)
        assert server.fakes.snapshots.must_stand == [True]
        assert (await server.ask("GET", "/snapshots/snap_one")).json() == view
        assert (await server.ask("GET", "/snapshots")).json() == [view]
        assert (await server.ask("GET", f"/sandboxes/{sandbox}/snapshots")).json() == [view]
        gone = await server.ask("DELETE", "/snapshots/snap_one")
        assert gone.json() == {"id": "snap_one", "removed": True}
        again = await server.ask("GET", "/snapshots/snap_one")
        assert (again.status, again.code) == (404, "snapshot_not_found")


async def test_a_sandbox_like_the_one_of_the_snapshot() -> None:
    async with running() as server:
        await taken(server, await made(server))
        answer = await server.ask("POST", "/sandboxes", {"snapshot": "snap_one", "vcpus": 1})
        view = answer.json()
        assert answer.status == 201
        assert (view["vcpus"], view["memoryMb"], view["storageMb"]) == (1, 768, 128)
        assert view["timeoutMs"] == 120_000


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "x" * 201}, "name"),
        ({"name": "a\0b"}, "name"),
        ({"consistent": "yes"}, "consistent"),
        ({"more": 1}, "more"),
    ],
)
async def test_bodies_that_are_wrong(body: dict[str, object], field: str) -> None:
    async with running() as server:
        answer = await taken(server, await made(server), **body)
        assert (answer.status, answer.code, answer.json()["field"]) == (422, "invalid_field", field)


async def test_a_fork_is_like_its_source() -> None:
    async with running() as server:
        sandbox = await made(server)
        wish = {"count": 3, "envVars": {"B": "2"}, "memoryMb": 600}
        answer = await server.ask("POST", f"/sandboxes/{sandbox}/fork", wish)
        assert answer.status == 201, answer
        assert len(answer.json()["sandboxes"]) == 3
        ((count, spec),) = server.fakes.snapshots.forked
        assert count == 3
        assert spec.env == {"A": "1", "B": "2"}
        assert (spec.limits.memory_mb, spec.limits.vcpus) == (600, 1)


@pytest.mark.parametrize("count", [0, -1, 65, 1.5, "2"])
async def test_as_many_forks_as_there_may_be(count: object) -> None:
    async with running() as server:
        answer = await server.ask("POST", f"/sandboxes/{await made(server)}/fork", {"count": count})
        assert (answer.status, answer.json()["field"]) == (422, "count")
        assert server.fakes.snapshots.forked == []


async def test_a_page_of_differences() -> None:
    async with running() as server:
        sandbox = await made(server)
        await taken(server, sandbox)
        for path in (f"/sandboxes/{sandbox}", "/snapshots/snap_one"):
            answer = await server.ask("GET", f"{path}/diff?limit=7&after=b2Rk")
            assert answer.json()["next"] == "b2Rk"
            (change,) = answer.json()["changes"]
            assert (change["path"], change["pathBase64"]) == ("/odd \ufffd", "L29kZCD/")
            assert (change["change"], change["mode"]) == ("added", "0644")
        assert server.fakes.differences.asked == [("b2Rk", 7)] * 2


@pytest.mark.parametrize("query", ["limit=0", "limit=10001", "limit=x", "limit=", "after=%C3%A9"])
async def test_pages_that_are_none(query: str) -> None:
    async with running() as server:
        answer = await server.ask("GET", f"/sandboxes/{await made(server)}/diff?{query}")
        assert (answer.status, answer.code) == (422, "invalid_field")


async def test_an_export_is_streamed() -> None:
    async with running() as server:
        await taken(server, await made(server))
        answer = await server.ask("GET", "/snapshots/snap_one/export?format=tar")
        assert (answer.status, answer.body) == (200, b"onetwo")
        assert answer.headers["content-type"] == "application/x-tar"
        whole = await server.ask("GET", "/images/export?image=alpine:latest")
        assert whole.body == b"onetwo"
        assert server.fakes.exports.asked == [("snap_one", False), ("alpine:latest", True)]
        wrong = await server.ask("GET", "/snapshots/snap_one/export?format=zip")
        assert (wrong.status, wrong.json()["field"]) == (422, "format")


async def test_an_export_that_fails_at_once_is_a_problem() -> None:
    async with running() as server:
        await taken(server, await made(server))
        server.fakes.exports.pieces = []
        server.fakes.exports.problem = Problem(Code.HOST_FULL, "no")
        answer = await server.ask("GET", "/snapshots/snap_one/export")
        assert (answer.status, answer.code) == (503, "host_full")


async def test_an_export_that_fails_later_is_cut_short() -> None:
    """Nobody may take the part for the whole."""
    async with running() as server:
        await taken(server, await made(server))
        server.fakes.exports.problem = Problem(Code.HOST_FULL, "no")
        with pytest.raises(ExceptionGroup) as caught:
            await server.ask("GET", "/snapshots/snap_one/export")
        assert caught.group_contains(h11.RemoteProtocolError)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/snapshots/snap_one"),
        ("DELETE", "/snapshots/snap_one"),
        ("GET", "/snapshots/snap_one/diff"),
        ("GET", "/snapshots/snap_one/export"),
        ("POST", "/sandboxes"),
    ],
)
async def test_somebody_elses_is_not_there(method: str, path: str) -> None:
    async with running() as server:
        await taken(server, await made(server))
        body = {"snapshot": "snap_one"} if method == "POST" else None
        answer = await server.ask(method, path, body, key=OTHER_KEY)
        assert (answer.status, answer.code) == (404, "snapshot_not_found")
        assert server.fakes.snapshots.records


async def test_idempotency_keys() -> None:
    """A key goes with the sandbox and the wish; both are kept as hashes."""
    async with running() as server:
        sandbox, other = await made(server), await made(server)
        for one, path, wish in (
            (sandbox, "snapshots", {}), (sandbox, "snapshots", {}), (other, "snapshots", {}),
            (sandbox, "fork", {}), (sandbox, "fork", {"count": 2}),
        ):  # fmt: skip
            answer = await server.ask(
                "POST", f"/sandboxes/{one}/{path}", wish, headers={"Idempotency-Key": "mine"}
            )
            assert answer.status == 201, answer
        requests = server.fakes.snapshots.requests
        assert len({one.key for one in requests if one}) == 1
        assert requests[0] == requests[1]
        assert len({one.body for one in requests if one}) == 4
        await server.ask("POST", f"/sandboxes/{sandbox}/fork", {})
        assert requests[-1] is None


async def test_a_push_of_ones_own() -> None:
    async with running() as server:
        await taken(server, await made(server))
        answer = await server.ask("POST", "/snapshots/snap_one/push", {"to": "localhost:5000/a:1"})
        assert (answer.status, answer.json()["image"]) == (200, "localhost:5000/a:1")
        missing = await server.ask("POST", "/snapshots/snap_none/push", {"to": "a/b:1"})
        assert (missing.status, missing.code) == (404, "snapshot_not_found")
        wrong = await server.ask("POST", "/snapshots/snap_one/push", {})
        assert (wrong.status, wrong.json()["field"]) == (422, "to")
        assert server.fakes.pushes.asked == [("snap_one", "localhost:5000/a:1")]
