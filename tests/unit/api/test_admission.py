"""Who is let in, how often, and for whom."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from nsbox.api import admission
from nsbox.model.account import Role, Scope
from nsbox.settings import Settings
from tests.unit.api.client import Answer, Server, head, running
from tests.unit.api.fakes import KEY, OTHER_KEY, Fakes

PRESET = "a preset word"
FAILURES, FAILURE_S = 20, 15.0
HERE = Settings(auth_failures=FAILURES)
NEARBY = Settings(auth_failures=FAILURES, trusted_proxies="127.0.0.1")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1_000.0]
    monkeypatch.setattr(admission.time, "monotonic", lambda: now[0])
    return now


def with_preset() -> Fakes:
    fakes = Fakes()
    fakes.keys.add(PRESET, "ann", Role.ADMIN)
    return fakes


async def guess(server: Server, key: str, address: str | None = None, **more: Any) -> Answer:
    headers = {} if address is None else {"X-Forwarded-For": address}
    return await server.ask("GET", "/templates", key=key, headers=headers, **more)


# ---- guesses


async def test_a_guesser_is_told_no_more(clock: list[float]) -> None:
    async with running(NEARBY, with_preset()) as server:
        for count in range(FAILURES):
            assert (await guess(server, f"wrong {count}", "192.0.2.1")).code == "invalid_key"
        answer = await guess(server, "wrong once more", "192.0.2.1")
        assert (answer.status, answer.code, answer.headers["retry-after"]) == (429, "too_many_failures", "15")
        right = await guess(server, PRESET, "192.0.2.1")
        assert (right.status, right.code) == (429, "too_many_failures"), "what is right is not told either"
        clock[0] += FAILURE_S
        assert (await guess(server, "wrong again", "192.0.2.1")).code == "invalid_key"
        assert (await guess(server, PRESET, "192.0.2.1")).status == 429
        clock[0] += FAILURE_S
        assert (await guess(server, PRESET, "192.0.2.1")).status == 200, "and what is right is no failure"
        assert (await guess(server, PRESET, "192.0.2.1")).status == 200


async def test_one_address_locks_out_no_other(clock: list[float]) -> None:
    async with running(NEARBY, with_preset()) as server:
        for _ in range(FAILURES * 2):
            await guess(server, "wrong", "192.0.2.1")
        assert (await guess(server, PRESET, "192.0.2.1")).status == 429
        assert (await guess(server, PRESET, "192.0.2.2")).status == 200
        assert (await guess(server, PRESET)).status == 200
        assert (await guess(server, PRESET, "192.0.2.1, 192.0.2.2")).status == 200
        assert (await guess(server, PRESET, "192.0.2.2, 192.0.2.1")).status == 429, "the left one is a claim"


async def test_a_key_that_nobody_can_guess_is_let_in_from_anywhere(clock: list[float]) -> None:
    """Who shares an address with a guesser (a proxy that is not named in the settings, say) goes on."""
    async with running(HERE, with_preset()) as server:
        for count in range(FAILURES * 2):
            await guess(server, f"wrong {count}")
        assert (await guess(server, KEY)).status == 200
        assert (await guess(server, "nsbox_" + "x" * 43)).status == 429
        assert (await server.ask("GET", "/healthz", key=None)).status == 200
        assert (await guess(server, PRESET)).status == 429


async def test_a_network_of_ipv6_is_one_guesser(clock: list[float]) -> None:
    async with running(NEARBY, with_preset()) as server:
        for count in range(FAILURES):
            await guess(server, "wrong", f"2001:db8::{count:x}")
        assert (await guess(server, "wrong", "2001:db8::ffff")).status == 429
        assert (await guess(server, "wrong", "2001:db8:0:1::1")).status == 401


async def test_guesses_take_bounded_memory(monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> None:
    monkeypatch.setattr(admission, "_MOST_ADDRESSES", 8)
    held: list[admission.Admission] = []
    real = admission.Admission.__init__

    def watched(self: admission.Admission, *arguments: Any) -> None:
        real(self, *arguments)
        held.append(self)

    monkeypatch.setattr(admission.Admission, "__init__", watched)
    async with running(NEARBY) as server:
        for count in range(50):
            assert (await guess(server, "wrong", f"192.0.2.{count}")).status == 401
        failures = held[0]._failures
        assert failures is not None
        assert len(failures) == 8


async def test_guesses_without_a_limit(clock: list[float]) -> None:
    async with running(Settings(auth_failures=0)) as server:
        for _ in range(200):
            assert (await guess(server, "wrong")).status == 401


async def test_a_ticket_is_a_guess_too(clock: list[float]) -> None:
    async with running(HERE) as server:
        sandbox = await server.sandbox()
        codes = []
        for count in range(FAILURES + 1):
            codes.append(
                await attach(server, f"/sandboxes/{sandbox}/processes/cmd_0/attach", f"{count:048x}")
            )
        assert codes == [401] * FAILURES + [429]


async def attach(server: Server, target: str, ticket: str) -> int:
    async with await server.connect() as stream:
        await stream.send_all(
            f"GET /api/v1{target} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            f"Sec-WebSocket-Protocol: nsbox.v1, nsbox.v1.{ticket}\r\n\r\n".encode()
        )
        return int(bytes(await stream.receive_some(65536)).split()[1])


# ---- rates


async def test_a_key_makes_so_many_requests(clock: list[float]) -> None:
    async with running(Settings(rate_limit=2, rate_burst=3)) as server:
        for left, full in ((2, 1), (1, 1), (0, 2)):
            answer = await server.ask("GET", "/templates")
            assert answer.status == 200
            assert answer.headers["ratelimit-policy"] == '"key";q=3;w=2'
            assert answer.headers["ratelimit"] == f'"key";r={left};t={full}'
        answer = await server.ask("GET", "/templates")
        assert (answer.status, answer.code, answer.headers["retry-after"]) == (429, "too_many_requests", "1")
        assert answer.headers["ratelimit"] == '"key";r=0;t=1'
        assert answer.json()["retryAfterS"] == 1
        assert (await server.ask("GET", "/templates", key=OTHER_KEY)).status == 200, "each key its own"
        clock[0] += 0.5
        assert (await server.ask("GET", "/templates")).status == 200
        assert (await server.ask("GET", "/templates")).status == 429
        assert "ratelimit" not in (await server.ask("GET", "/healthz")).headers


async def test_all_kinds_of_routes_count(clock: list[float]) -> None:
    fakes = Fakes()
    async with running(Settings(rate_limit=1, rate_burst=1), fakes) as server:
        assert (await server.ask("POST", "/sandboxes")).status == 201
        sandbox = next(iter(fakes.sandboxes.records))
        for method, target in (
            ("GET", "/sandboxes"),
            ("POST", f"/sandboxes/{sandbox}/exec"),
            ("GET", "/nothing"),
            ("GET", "//metrics"),
        ):
            answer = await server.ask(method, target, {} if method == "POST" else None)
            assert (answer.status, answer.code) == (429, "too_many_requests"), target
        clock[0] += 1
        done = await server.ask("POST", f"/sandboxes/{sandbox}/exec", {"command": "true"})
        assert (done.status, done.headers["ratelimit"]) == (200, '"key";r=0;t=1')


async def test_no_limit_and_no_headers() -> None:
    async with running(Settings(rate_limit=0, rate_burst=1)) as server:
        for _ in range(5):
            answer = await server.ask("GET", "/templates")
            assert answer.status == 200
            assert not [name for name in answer.headers if name.startswith("ratelimit")]


# ---- acting for somebody


async def test_an_administrator_acts_for_a_user() -> None:
    async with running() as server:
        made = await server.ask("POST", "/sandboxes", headers={"Nsbox-User": "bob"})
        assert made.status == 201
        sandbox = made.json()["id"]
        assert server.fakes.sandboxes.records[sandbox].owner == "bob"
        assert (await server.ask("GET", f"/sandboxes/{sandbox}")).code == "sandbox_not_found"
        assert (await server.ask("GET", f"/sandboxes/{sandbox}", key=OTHER_KEY)).status == 200
        body = {"command": "true"}
        done = await server.ask("POST", f"/sandboxes/{sandbox}/exec", body, headers={"Nsbox-User": "bob"})
        assert done.status == 200
        me = (await server.ask("GET", "/me", headers={"Nsbox-User": "bob"})).json()
        assert (me["user"]["id"], me["key"]["userId"]) == ("bob", "ann")


async def test_who_may_not_act_for_others() -> None:
    fakes = Fakes()
    fakes.keys.add("w" * 20, "ann", Role.ADMIN, (Scope.SANDBOXES, Scope.FILES))
    fakes.keys.add("r" * 20, "ann", Role.ADMIN, (Scope.ADMIN, Scope.SANDBOXES, Scope.READ_ONLY))
    async with running(fakes=fakes) as server:
        for key, named in ((OTHER_KEY, "ann"), (OTHER_KEY, "bob"), (OTHER_KEY, "nobody"), ("w" * 20, "bob")):
            answer = await server.ask("GET", "/sandboxes", key=key, headers={"Nsbox-User": named})
            assert (answer.status, answer.code) == (403, "forbidden"), (key, named)
        looking = {"key": "r" * 20, "headers": {"Nsbox-User": "bob"}}
        assert (await server.ask("GET", "/sandboxes", **looking)).status == 200
        assert (await server.ask("POST", "/sandboxes", **looking)).status == 403
        missing = await server.ask("GET", "/sandboxes", headers={"Nsbox-User": "us_none"})
        assert (missing.status, missing.code) == (404, "user_not_found")


async def test_a_header_that_is_given_twice_is_refused() -> None:
    async with running() as server:
        answer = await server.ask("GET", "/sandboxes", headers={"Nsbox-User": "bob\r\nNsbox-User: ann"})
        assert (answer.status, answer.code) == (400, "invalid_request")


# ---- requests at once


async def test_a_user_has_so_many_requests_at_once() -> None:
    """All keys of the user together; they come back, however a request ended."""
    async with running(Settings(user_requests=2)) as server:
        target = f"/sandboxes/{await server.sandbox()}/exec"
        server.fakes.commands.hang = True
        streams = []
        for _ in range(2):
            server.fakes.commands.running = trio.Event()
            streams.append(await server.connect())
            sent = head("POST", target, {"Content-Length": "15"}) + b'{"command":"a"}'
            await streams[-1].send_all(sent)
            await server.fakes.commands.running.wait()
        answer = await server.ask("GET", "/templates")
        assert (answer.status, answer.code, answer.headers["retry-after"]) == (429, "too_many_requests", "1")
        assert (await server.ask("GET", "/templates", key=OTHER_KEY)).status == 200
        for stream in streams:
            await stream.aclose()
        with trio.fail_after(10):
            while (await server.ask("GET", "/templates")).status == 429:
                await trio.sleep(0.01)
        for _ in range(5):
            assert (await server.ask("GET", "/nope")).status == 404
            assert (await server.ask("POST", "/sandboxes", b"{")).status == 400
        assert (await server.ask("GET", "/templates")).status == 200
