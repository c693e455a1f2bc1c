"""Large bodies: a few at a time, and one tenant's slow ones keep nobody else waiting."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from nsbox.api import bodies, caps
from nsbox.api.operations import OPERATIONS
from nsbox.api.turns import Turns
from nsbox.settings import MIB, Settings
from tests.unit.api.client import running
from tests.unit.api.fakes import KEY


async def test_one_user_leaves_turns_for_others() -> None:
    turns = Turns(3, 2)
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
        assert len(having) == 3
        assert having[2] in ("a", "b")
        nursery.cancel_scope.cancel()
    assert len(turns) == 0


async def test_turns_come_back() -> None:
    turns = Turns(2, 1)
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
