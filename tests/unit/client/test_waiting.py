"""One fetches what is new, for all who wait for it: threads and tasks alike."""

from __future__ import annotations

import threading

import anyio
import pytest
import trio
import trio.testing

from nsbox.client.asynchronous import waiting as of_tasks
from nsbox.client.blocking import waiting as of_threads


@pytest.mark.parametrize("early", [True, False])
def test_a_thread_has_its_news_though_the_next_is_being_fetched(early: bool) -> None:
    """With a lock instead, whoever types waited for the output of what was not typed yet."""
    news, found = of_threads.News(), list[bool]()
    waits = threading.Thread(target=lambda: found.append(news.turn(0)), daemon=True)
    assert news.turn(0)
    if early:
        waits.start()
    news.over()
    assert news.turn(1)
    if not early:
        waits.start()
    waits.join(30)
    assert found == [False]


async def test_a_task_has_its_news_though_the_next_is_being_fetched() -> None:
    news, found = of_tasks.News(), list[bool]()

    async def wait() -> None:
        found.append(await news.turn(0))

    with anyio.fail_after(30):
        assert await news.turn(0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            news.over()
            assert await news.turn(1)
    assert found == [False]


def test_only_one_fetches_and_a_failure_gives_the_turn_to_the_next() -> None:
    news, turns = of_threads.News(), list[int]()

    def fetch() -> None:
        seen = 0
        while seen < 50:
            if news.turn(seen):
                turns.append(seen)
                news.over()
            seen = news.count

    threads = [threading.Thread(target=fetch, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert turns == list(range(news.count))
    assert news.count >= 50
