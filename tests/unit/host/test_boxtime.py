from __future__ import annotations

import pytest
import trio
import trio.testing

from nsbox.host.boxtime import BoxTime


async def test_it_stands_still(autojump_clock: trio.testing.MockClock) -> None:
    time = BoxTime()
    begun = time.now()
    await trio.sleep(1)
    for _ in range(2):
        time.stop()
        await trio.sleep(50)
    assert time.now() - begun == pytest.approx(1)
    for _ in range(2):
        time.go_on()
        await trio.sleep(1)
    assert time.now() - begun == pytest.approx(3)


async def test_limits_stand_still_with_it(autojump_clock: trio.testing.MockClock) -> None:
    time = BoxTime()
    begun = trio.current_time()

    async def stops() -> None:
        for _ in range(3):
            await trio.sleep(2)
            time.stop()
            await trio.sleep(100)
            time.go_on()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stops)
        with time.limit(5) as outer, time.limit(50) as inner:
            await trio.sleep_forever()
        assert outer.cancelled_caught
        assert not inner.cancelled_caught
        assert trio.current_time() - begun == pytest.approx(205)
        nursery.cancel_scope.cancel()


async def test_a_limit_set_while_it_stands_still(autojump_clock: trio.testing.MockClock) -> None:
    time = BoxTime()
    time.stop()

    async def goes_on() -> None:
        await trio.sleep(100)
        time.go_on()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(goes_on)
        begun = trio.current_time()
        with pytest.raises(trio.TooSlowError), time.fail_after(5):
            await trio.sleep_forever()
        assert trio.current_time() - begun == pytest.approx(105)


async def test_what_ends_in_time(autojump_clock: trio.testing.MockClock) -> None:
    time = BoxTime()
    with time.fail_after(5), time.limit(3) as limit:
        await trio.sleep(1)
    assert not limit.cancelled_caught
    time.stop()  # a limit that is over is not touched any more
    time.go_on()
    assert not limit.cancel_called


async def test_who_waits_for_it_to_go_on() -> None:
    time = BoxTime()
    with trio.fail_after(0):  # no checkpoint: between a look at the state and a question nobody may come
        await time.going()
    time.stop()
    went: list[int] = []

    async def wait() -> None:
        await time.going()
        went.append(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert went == []
        time.go_on()
    assert went == [1]
