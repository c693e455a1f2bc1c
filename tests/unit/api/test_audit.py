"""Which requests are in the audit log, and what is told of them."""

from __future__ import annotations

import msgspec
import pytest

from nsbox.model.account import Role
from nsbox.model.audit import Outcome
from nsbox.settings import Settings
from tests.unit.api.client import Server, head, running
from tests.unit.api.fakes import KEY, OTHER_KEY, Fakes

SECRET = "s3cret-canary"


async def test_what_changes_something_is_noted_and_nothing_else() -> None:
    async with running() as server:
        sandbox = await server.sandbox()
        box = f"/sandboxes/{sandbox}"
        await server.ask("GET", box)
        await server.ask("GET", "/sandboxes")
        wish = {"command": f"echo {SECRET}", "env": {"A": SECRET}}
        await server.ask("POST", f"{box}/exec", wish, headers={"Idempotency-Key": SECRET})
        await server.ask("PUT", f"{box}/files?path=/{SECRET}", {"content": SECRET})
        await server.ask("DELETE", f"{box}/ports/80")
        await server.ask("POST", f"{box}/exec", {"command": 1})
        await server.ask("DELETE", box)
        events = server.fakes.audit.events
        assert [(one.action, one.outcome, one.status) for one in events] == [
            ("create_sandbox", Outcome.DONE, 201),
            ("exec_command", Outcome.DONE, 200),
            ("write_file", Outcome.DONE, 200),
            ("remove_port", Outcome.FAILED, 404),
            ("exec_command", Outcome.FAILED, 422),
            ("kill_sandbox", Outcome.DONE, 200),
        ]
        assert {one.sandbox for one in events} == {sandbox}
        assert {one.client for one in events} == {"127.0.0.1"}
        assert [one.target for one in events] == [None, None, None, "80", None, None]
        (user,) = {one.user for one in events}
        assert user is not None
        text = repr(events)
        for secret in (SECRET, KEY, "echo"):
            assert secret not in text


async def test_refusals_are_noted() -> None:
    async with running() as server:
        answer = await server.ask("POST", "/users", {"name": "x"}, key=OTHER_KEY)
        assert answer.status == 403
        (event,) = server.fakes.audit.events
        assert (event.action, event.outcome, event.status) == ("add_user", Outcome.REFUSED, 403)


async def test_keys_that_open_nothing_are_counted_and_never_told() -> None:
    async with running() as server:
        for _ in range(3):
            assert (await server.ask("GET", "/sandboxes", key=f"nsbox_{SECRET}")).status == 401
        assert (await server.ask("GET", "/sandboxes", key=None)).status == 401  # no guess
        assert server.fakes.audit.guesses == ["127.0.0.1"] * 3
        assert server.fakes.audit.events == []


async def test_the_address_is_what_trusted_proxies_tell() -> None:
    told = {"X-Forwarded-For": "198.51.100.1, 192.0.2.7"}
    async with running() as server:
        await server.ask("POST", "/sandboxes", headers=told)
        assert server.fakes.audit.events[0].client == "127.0.0.1"
    settings = Settings(state_dir="/nonexistent", shutdown_grace_s=1, trusted_proxies="127.0.0.0/8")
    async with running(settings) as server:
        await server.ask("POST", "/sandboxes", headers=told)
        assert server.fakes.audit.events[0].client == "192.0.2.7"


async def test_a_client_that_leaves_is_noted() -> None:
    async with running() as server:
        async with await server.connect() as stream:
            await stream.send_all(head("POST", "/sandboxes", {"Content-Length": "10"}))
        await _noted(server)
        (event,) = server.fakes.audit.events
        assert (event.action, event.outcome, event.status) == ("create_sandbox", Outcome.LEFT, 0)


async def _noted(server: Server) -> None:
    import trio

    with trio.fail_after(10):
        while not server.fakes.audit.events:
            await trio.sleep(0.01)


async def test_ids_that_are_none_are_cut() -> None:
    async with running() as server:
        await server.ask("DELETE", f"/sandboxes/{'x' * 20_000}/ports/{'y' * 5_000}")
        (event,) = server.fakes.audit.events
        assert (event.sandbox, event.target) == ("x" * 128, "y" * 128)


@pytest.mark.parametrize(("key", "everybody"), [(KEY, True), (OTHER_KEY, False)])
async def test_an_administrator_sees_all_and_a_user_her_own(key: str, everybody: bool) -> None:
    async with running() as server:
        answer = await server.ask(
            "GET", "/audit?limit=2&before=9&sandboxId=sb_x&userId=us_y&action=me", key=key
        )
        assert answer.json() == {"events": [], "next": None}
        (wish,) = server.fakes.audit.asked
        assert (wish.owner is None) is everybody
        assert msgspec.structs.replace(wish, owner=None) == msgspec.structs.replace(
            wish, limit=2, before=9, sandbox="sb_x", user="us_y", action="me", owner=None
        )


async def test_what_an_administrator_does_for_a_user_is_told_of_both() -> None:
    fakes = Fakes()
    fakes.keys.add("nsbox_" + "c" * 43, "carl", Role.USER)
    async with running(fakes=fakes) as server:
        carl = (await server.ask("GET", "/me", key="nsbox_" + "c" * 43)).json()["user"]["id"]
        acting = {"Nsbox-User": carl}
        assert (await server.ask("POST", "/sandboxes", headers=acting)).status == 201
        (event,) = server.fakes.audit.events
        assert event.subject == carl
        assert event.user != carl
        await server.ask("GET", "/audit", headers=acting)
        assert server.fakes.audit.asked[0].owner == carl
        page = (await server.ask("GET", "/audit?limit=1")).json()
        assert page["next"] == 7
        assert page["events"][0]["onBehalfOf"] == carl
        assert page["events"][0]["from"] == "127.0.0.1"
