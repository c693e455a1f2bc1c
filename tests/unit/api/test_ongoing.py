"""What has begun is held to its key."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from nsbox.api.exchange import Exchange
from nsbox.api.ongoing import LOOK_S, Ongoing
from nsbox.model.account import Caller, Role, User
from nsbox.model.errors import Code, HostProblem, Problem
from tests.unit.api.fakes import KEY, OTHER_KEY, FakeKeys


class Keys(FakeKeys):
    """Counts how often it is asked, and may not know."""

    asked = 0
    unknown = False

    def caller(self, key_id: str) -> Caller | None:
        self.asked += 1
        if self.unknown:
            raise HostProblem("the record is locked")
        return super().caller(key_id)


def exchange(caller: Caller | None, path: str = "/api/v1/sandboxes") -> Exchange:
    nobody: Any = None
    one = Exchange({"path": path}, nobody, nobody)
    one.caller = caller
    return one


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
def ongoing(keys: Keys) -> Ongoing:
    return Ongoing(keys)


async def held(ongoing: Ongoing, one: Exchange) -> float:
    """How long it was let go on, which is for a minute at most."""
    begun = trio.current_time()
    code = None
    try:
        with ongoing.hold(one):
            await trio.sleep(60)
    except Problem as problem:
        code = problem.code
    assert (code, one.cut) in [(None, False), (Code.INVALID_KEY, True)]
    return trio.current_time() - begun


async def lasted(ongoing: Ongoing, *several: Exchange) -> list[float]:
    found = [0.0] * len(several)

    async def hold(index: int) -> None:
        found[index] = await held(ongoing, several[index])

    async with trio.open_nursery() as watching:
        watching.start_soon(ongoing.watch)
        async with trio.open_nursery() as nursery:
            for index in range(len(several)):
                nursery.start_soon(hold, index)
        watching.cancel_scope.cancel()
    return found


async def test_only_what_the_key_has_begun_ends(
    keys: Keys, ongoing: Ongoing, autojump_clock: MockClock
) -> None:
    ann, bob = keys.callers[KEY], keys.callers.pop(OTHER_KEY)
    times = await lasted(ongoing, exchange(ann), exchange(bob), exchange(bob), exchange(None))
    assert times == pytest.approx([60, LOOK_S, LOOK_S, 60])


async def test_each_key_is_asked_for_once(keys: Keys, ongoing: Ongoing, autojump_clock: MockClock) -> None:
    await lasted(ongoing, *(exchange(keys.callers[KEY]) for _ in range(50)))
    assert keys.asked <= 60 / LOOK_S + 1


async def test_nobody_is_cut_off_because_the_record_cannot_be_read(
    keys: Keys, ongoing: Ongoing, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    keys.unknown = True
    assert await lasted(ongoing, exchange(keys.callers[KEY])) == [60]
    assert "the record is locked" in caplog.text


@pytest.mark.parametrize("path", ["/api/v1/keys/key_2", "/api/v1/users/bob"])
async def test_who_ends_her_own_key_gets_an_answer(
    keys: Keys, ongoing: Ongoing, autojump_clock: MockClock, path: str
) -> None:
    assert await lasted(ongoing, exchange(keys.callers.pop(OTHER_KEY), path)) == [60]


async def test_who_is_no_administrator_any_more_acts_for_nobody(
    keys: Keys, ongoing: Ongoing, autojump_clock: MockClock
) -> None:
    ann = keys.callers[KEY]
    acting = msgspec.structs.replace(ann, acting_for=User(id="bob", name="bob", role=Role.USER))
    assert await lasted(ongoing, exchange(acting)) == [60]
    keys.callers[KEY] = msgspec.structs.replace(ann, grants=keys.callers[OTHER_KEY].grants)
    assert await lasted(ongoing, exchange(acting), exchange(ann)) == pytest.approx([LOOK_S, 60])


async def test_what_has_ended_is_forgotten(ongoing: Ongoing) -> None:
    for error in (None, ValueError()):
        try:
            with ongoing.hold(exchange(None)):
                if error is not None:
                    raise error
        except ValueError:
            pass
        assert ongoing._held == {}
