"""Large bodies: a few at a time, and one tenant's slow ones keep nobody else waiting."""

from __future__ import annotations

import errno
import tracemalloc
from typing import Any

import pytest
import trio
import trio.testing

from nsbox.api import bodies, caps, spool
from nsbox.api.exchange import Exchange
from nsbox.api.operations import OPERATIONS
from nsbox.api.turns import Turns
from nsbox.model.account import Role
from nsbox.model.errors import Code, Problem
from nsbox.settings import MIB, Settings
from tests.fuzz.descriptors import none_leaked
from tests.unit.api.client import running
from tests.unit.api.fakes import KEY, FakeKeys, FakeReserve


async def test_one_user_leaves_turns_for_others() -> None:
    turns = Turns(2)
    having: list[str] = []

    async def take(user: str) -> None:
        async with turns.turn(user):
            having.append(user)
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(take, "greedy")
        await trio.testing.wait_all_tasks_blocked()
        for user in ("a", "b"):
            nursery.start_soon(take, user)
        await trio.testing.wait_all_tasks_blocked()
        assert having[:2] == ["greedy"] * 2
        assert sorted(having[2:]) == ["a", "b"]
        nursery.cancel_scope.cancel()
    assert len(turns) == 0


async def test_turns_come_back() -> None:
    turns = Turns(1)
    for _ in range(5):
        with trio.fail_after(5):
            async with turns.turn("a"), turns.turn("b"):
                with trio.move_on_after(0):
                    async with turns.turn("a"):
                        raise AssertionError("two at once")
    assert len(turns) == 0


def test_every_operation_has_a_cap_and_most_a_small_one() -> None:
    table = caps.table(Settings())
    assert {one.name for one in OPERATIONS} <= set(table)
    large = {name for name, cap in table.items() if cap > caps.SMALL}
    assert large == {
        *("write_file", "exec_command", "start_process", "create_sandbox", "fork_sandbox", "set_network"),
        *("build_template", "write_stdin", "import_image", caps.RAW_FILE),
    }
    assert table["write_file"] == 16 * MIB
    assert (
        max(caps.table(Settings(max_json_bytes=1000, max_upload_bytes=1, max_image_bytes=1)).values()) == 1000
    )


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_route_takes_no_more_than_it_has_a_use_for(chunked: bool) -> None:
    async with running() as server:
        one = f"/sandboxes/{await server.sandbox()}"
        for method, path, cap in (
            ("POST", f"{one}/timeout", caps.SMALL),
            ("POST", f"{one}/pause", caps.SMALL),
            ("DELETE", one, caps.SMALL),
            ("GET", one, caps.SMALL),
            ("POST", "/images", caps.SMALL),
            ("POST", "/sandboxes", MIB),
            ("PUT", f"{one}/network", MIB),
        ):
            for size, fits in ((cap, True), (cap + 1, False)):
                body = b"{" + b" " * (size - 2) + b"}"
                headers = {"Content-Type": "application/json"}
                answer = await server.ask(method, path, body, headers=headers, chunked=chunked)
                assert (answer.status == 413) is not fits, (method, path, size, answer)


async def test_slow_large_bodies_of_one_user_keep_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the body reader sees it: its turns are by user."""
    taken: list[str] = []

    class Recording(Turns):
        def turn(self, user: str):  # type: ignore[no-untyped-def]
            taken.append(user)
            return super().turn(user)

    monkeypatch.setattr(bodies, "Turns", Recording)
    async with running() as server:
        target = f"/sandboxes/{await server.sandbox()}/files?path=/a"
        for size in (1_000, 200_000):
            assert (await server.ask("PUT", target, {"content": "x" * size})).status == 200
        assert taken == [server.fakes.keys.find(KEY).user.id]  # type: ignore[union-attr]


async def test_a_large_body_does_not_touch_the_reserve() -> None:
    """It waits on the disk that is kept free for those who are there."""
    async with running() as server:
        target = f"/sandboxes/{await server.sandbox()}/files?path=/a"
        server.fakes.reserve.full = Problem(Code.HOST_FULL, "full")
        assert (await server.ask("PUT", target, {"content": "x" * 1_000})).status == 200
        answer = await server.ask("PUT", target, {"content": "x" * 200_000})
        assert (answer.status, answer.json()["code"]) == (503, "host_full")


async def test_slow_large_bodies_of_many_users_keep_nobody_waiting() -> None:
    """However many users send slowly, and however many bodies each: nobody else's turn is taken, and memory
    does not have them."""
    reader, keys = bodies.Bodies({"write_file": 16 * MIB}, FakeReserve()), FakeKeys()
    body = b"[" + b"1," * MIB
    arrived = 0

    def exchange(user: str, *, ends: bool) -> Exchange:
        sent = 0

        async def receive() -> dict[str, Any]:
            nonlocal arrived, sent
            await trio.lowlevel.checkpoint()
            if sent < len(body):
                piece = body[sent : sent + 65_536]
                sent += len(piece)
                return {"type": "http.request", "body": piece, "more_body": not ends or sent < len(body)}
            arrived += 1
            await trio.sleep_forever()
            raise AssertionError

        async def send(message: dict[str, Any]) -> None:
            raise AssertionError(message)

        made = Exchange({"type": "http", "headers": []}, receive, send)
        made.caller = keys.add(user, user, Role.USER)
        return made

    with none_leaked():
        async with trio.open_nursery() as nursery:
            tracemalloc.start()
            for number in range(20):
                for _ in range(6):
                    slow = exchange(f"us_{number}", ends=False)
                    nursery.start_soon(reader.read, slow, "write_file")
            with trio.fail_after(60):
                while arrived < 20 * 4:  # what their turns allow
                    await trio.sleep(0.01)
                held = tracemalloc.get_traced_memory()[0]
                tracemalloc.stop()
                assert await reader.read(exchange("us_other", ends=True), "write_file") == body
            assert held < 40 * MIB  # of 160 that have been sent: a part of each that is not written yet
            nursery.cancel_scope.cancel()


async def test_a_disk_without_room_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with running() as server:
        target = f"/sandboxes/{await server.sandbox()}/files?path=/a"
        monkeypatch.setattr(spool, "_write_all", full)
        answer = await server.ask("PUT", target, {"content": "x" * 500_000})
        assert (answer.status, answer.code) == (503, "host_lacks")
        assert (await server.ask("PUT", target, {"content": "x" * 5_000})).status == 200
