"""The table of routes and scopes is whole, and is what happens."""

from __future__ import annotations

import re
from itertools import combinations
from typing import Any

import pytest
import trio
from quart_trio import QuartTrio

from nsbox.api import app as application
from nsbox.api import ports, scopes
from nsbox.api.app import create_app
from nsbox.api.middleware import BASE
from nsbox.api.routing import call, reply
from nsbox.model.account import OWN_AREAS, Role, Scope, grants
from nsbox.settings import Settings
from tests.unit.api.client import Answer, head, running
from tests.unit.api.fakes import Fakes

RULES = sorted(create_app(Fakes().services, Settings()).rules)
#: Routes that only read although they are no GET.
READS: frozenset[str] = frozenset()
_AS_BYTES = {"Content-Type": "application/octet-stream"}


def test_every_route_is_in_the_table_and_nothing_else() -> None:
    assert set(RULES) == set(scopes.TABLE)


def test_the_table_by_hand() -> None:
    def need(route: str) -> tuple[set[str], bool]:
        method, _, rule = route.partition(" ")
        found = scopes.TABLE[method, BASE + rule]
        return set(found.areas), found.changes

    assert need("POST /sandboxes/<sandbox_id>/exec") == ({"sandboxes"}, True)
    assert need("GET /sandboxes/<sandbox_id>/processes/<key>/attach") == ({"sandboxes"}, True)
    assert need("GET /sandboxes/<sandbox_id>/files") == ({"files"}, False)
    assert need("DELETE /images/<path:name>") == ({"images"}, True)
    assert need("GET /users") == ({"admin"}, False)
    for (method, rule), one in scopes.TABLE.items():
        assert one.areas, rule
        assert one.changes or method == "GET" or f"{method} {rule.removeprefix(BASE)}" in READS, rule
        assert one.everybody is (one.areas == OWN_AREAS | {Scope.ADMIN} and not one.changes), rule


async def refuses(answer: Answer) -> bool:
    return answer.status == 403 and answer.code == "forbidden"


def ways(method: str, rule: str) -> list[dict[str, str]]:
    """How to ask: for files also as bytes, which another handler answers."""
    plain = {} if method == "GET" else {"Content-Type": "application/json"}
    if not rule.endswith("/files") or method == "DELETE":
        return [plain]
    return [plain, {"Accept": "application/octet-stream"} if method == "GET" else _AS_BYTES]


def all_kinds() -> list[tuple[Scope, ...]]:
    return [kind for size in range(1, len(Scope) + 1) for kind in combinations(Scope, size)]


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("kind", all_kinds(), ids="+".join)
async def test_every_route_with_every_kind_of_key(kind: tuple[Scope, ...], role: Role) -> None:
    """A key gets 403 where the table says so, and nowhere else."""
    fakes = Fakes()
    key = "nsbox_" + "s" * 43
    caller = fakes.keys.add(key, "carl", role, kind)
    assert caller.grants == grants(kind, role)
    tried = 0
    async with running(fakes=fakes) as server:
        for method, rule in RULES:
            if rule.endswith("/attach"):
                continue  # a WebSocket: below
            target = re.sub(r"<[^>]*>", "1", rule.removeprefix(BASE))
            for headers in ways(method, rule):
                body = None if method == "GET" else b"{}"
                answer = await server.ask(method, target, body, key=key, headers=headers)
                refused = not scopes.allows(caller, scopes.TABLE[method, rule])
                assert await refuses(answer) is refused, (method, rule, answer)
                tried += 1
    print(f"{'+'.join(kind)} of {role}: {tried} requests")


async def test_a_route_that_was_forgotten_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def forgotten() -> Any:
        call(frozenset())
        return reply({})

    def add(app: QuartTrio, *more: Any) -> None:
        app.add_url_rule(f"{BASE}/forgotten", "forgotten", forgotten, methods=["GET"])
        real(app, *more)

    real = ports.add
    monkeypatch.setattr(application.ports, "add", add)
    assert ("GET", f"{BASE}/forgotten") in create_app(Fakes().services, Settings()).rules
    async with running() as server:
        assert await refuses(await server.ask("GET", "/forgotten"))
        monkeypatch.setitem(scopes.TABLE, ("GET", f"{BASE}/forgotten"), scopes.TABLE["GET", f"{BASE}/me"])
        assert (await server.ask("GET", "/forgotten")).status == 200


async def test_a_stream_that_was_forgotten_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(scopes.TABLE, ("POST", f"{BASE}/sandboxes/<sandbox_id>/exec"))
    async with running() as server:
        sandbox = await server.sandbox()
        assert await refuses(await server.ask("POST", f"/sandboxes/{sandbox}/exec", {"command": "true"}))
        assert server.fakes.commands.specs == []


#: Bodies that no JSON route takes: of a wrong type, compressed, no JSON, bytes, announced as too much.
BAD_BODIES: list[tuple[bytes, dict[str, str]]] = [
    (b"<x/>", {"Content-Type": "text/xml"}),
    (b"{}", {"Content-Type": "application/json", "Content-Encoding": "gzip"}),
    (b"{", {"Content-Type": "application/json"}),
    (b"x", {"Content-Type": "application/octet-stream"}),
    (b"{}", {"Content-Type": "application/json", "Content-Length": str(1 << 50)}),
]


async def test_who_may_not_is_told_so_whatever_the_body_is() -> None:
    """Every route: the scope is decided before the body is looked at, and without waiting for it."""
    fakes = Fakes()
    keys = {one: "nsbox_" + one.value[:1] * 43 for one in Scope}
    callers = {one: fakes.keys.add(key, "carl", Role.ADMIN, (one,)) for one, key in keys.items()}
    tried = 0
    async with running(fakes=fakes) as server:
        for method, rule in RULES:
            if rule.endswith("/attach"):
                continue  # it has none
            scope = next(
                (s for s in Scope if not scopes.allows(callers[s], scopes.TABLE[method, rule])), None
            )
            if scope is None:
                continue  # every key may
            target = re.sub(r"<[^>]*>", "1", rule.removeprefix(BASE))
            for body, headers in BAD_BODIES:
                async with await server.connect() as stream:
                    sent = {"Content-Length": str(len(body)), **headers}
                    await stream.send_all(head(method, target, sent, keys[scope]))
                    # Not a byte of the body has come yet, and the head of the answer is there.
                    with trio.fail_after(10):
                        answer = bytes(await stream.receive_some(65536))
                assert answer.startswith(b"HTTP/1.1 403 "), (method, rule, headers, answer)
                tried += 1
    print(f"{tried} requests")
    assert tried > 150


async def test_what_is_no_route_needs_nothing() -> None:
    fakes = Fakes()
    key = "nsbox_" + "s" * 43
    fakes.keys.add(key, "carl", Role.USER, (Scope.FILES,))
    async with running(fakes=fakes) as server:
        assert (await server.ask("GET", "/nothing", key=key)).code == "route_not_found"
        answer = await server.ask("PUT", "/me", key=key)
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
        assert (await server.ask("GET", "/sandboxes/x/exec", key=key)).code == "method_not_allowed"


@pytest.mark.parametrize(
    ("kind", "status"),
    [((Scope.SANDBOXES,), 101), ((Scope.SANDBOXES, Scope.READ_ONLY), 403), ((Scope.FILES,), 403),
     ((Scope.READ_ONLY,), 403)],
)  # fmt: skip
async def test_a_websocket_is_not_safe(kind: tuple[Scope, ...], status: int) -> None:
    fakes = Fakes()
    key = "nsbox_" + "s" * 43
    fakes.keys.add(key, "ann", Role.ADMIN, kind)
    async with running(fakes=fakes) as server:
        sandbox = await server.sandbox()
        await server.ask("POST", f"/sandboxes/{sandbox}/processes", {"command": "true"})
        fakes.commands.written.clear()
        stream = await server.connect()
        await stream.send_all(
            f"GET /api/v1/sandboxes/{sandbox}/processes/cmd_0/attach HTTP/1.1\r\nHost: x\r\n"
            f"Authorization: Bearer {key}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        with trio.fail_after(10):
            head = bytes(await stream.receive_some(65536))
        assert head.split()[1] == str(status).encode()
        await stream.aclose()
