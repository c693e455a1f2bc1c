"""What is told, in which order, how often again, and how it is signed."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from nsbox.model.errors import HostProblem
from nsbox.model.happening import Kind, of
from nsbox.model.lifecycle import Action, EndReason, State
from nsbox.model.sandbox import Sandbox
from nsbox.service import webhooks
from nsbox.service.post import Answered, signature
from nsbox.service.webhooks import Webhooks, wait_after
from nsbox.settings import Webhook
from nsbox.store.database import Database
from nsbox.store.deliveries import DeliveryQueue
from tests.unit.store.test_sandboxes import make


class FakePost:
    """``refusals``: so many calls fail first."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, dict[str, Any]]] = []
        self.refusals = 0
        self.hangs = False

    async def call(self, event: str, kind: str, body: bytes) -> Answered:
        await trio.lowlevel.checkpoint()
        if self.hangs:
            await trio.sleep_forever()
        self.calls.append((event, kind, json.loads(body)))
        self.refusals -= 1
        return Answered(self.refusals < 0, "it answered 500")

    async def close(self) -> None:
        pass


@pytest.fixture
def secret_file(tmp_path: Path) -> str:
    path = tmp_path / "secret"
    path.write_text("0123456789abcdef-secret\n")
    return str(path)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(str(tmp_path / "state"))
    yield database
    database.close()


@pytest.fixture
def queue(database: Database) -> DeliveryQueue:
    return DeliveryQueue(database)


Made = tuple[Webhooks, dict[str, FakePost]]


@pytest.fixture
def made(queue: DeliveryQueue, secret_file: str) -> Callable[..., Made]:
    def make_them(**events: tuple[Kind, ...]) -> Made:
        hooks = {
            name: Webhook(url=f"https://{name}.example/", secret_file=secret_file, events=kinds)
            for name, kinds in events.items()
        }
        posts = {hook.url: FakePost() for hook in hooks.values()}
        made = Webhooks(queue, hooks, lambda hook, _: posts[hook.url])  # type: ignore[arg-type,return-value]
        return made, {name: posts[hook.url] for name, hook in hooks.items()}

    return make_them


def sandbox(state: State = State.RUNNING, reason: EndReason | None = None) -> Sandbox:
    return msgspec.structs.replace(make(owner="us_ann", state=state), end_reason=reason)


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(20):
        while not condition():
            await trio.sleep(0.01)


@pytest.mark.parametrize(
    ("action", "state", "reason", "told"),
    [
        (Action.READY, State.RUNNING, None, (Kind.CREATED, None)),
        (Action.PAUSE, State.PAUSED, None, (Kind.PAUSED, "asked")),
        (Action.IDLE, State.PAUSED, None, (Kind.PAUSED, "idle")),
        (Action.EXHAUST, State.PAUSED, None, (Kind.PAUSED, "quota")),
        (Action.EXPIRE, State.PAUSED, None, (Kind.PAUSED, "expired")),
        (Action.RESUME, State.RUNNING, None, (Kind.RESUMED, "asked")),
        (Action.WAKE, State.RUNNING, None, (Kind.RESUMED, "request")),
        (Action.KILL, State.STOPPING, EndReason.KILLED, None),
        (Action.GONE, State.STOPPED, EndReason.KILLED, (Kind.KILLED, "killed")),
        (Action.GONE, State.STOPPED, EndReason.EXPIRED, (Kind.EXPIRED, None)),
        (Action.GONE, State.STOPPED, EndReason.CRASHED, (Kind.KILLED, "crashed")),
        (Action.LOSE, State.LOST, EndReason.LOST, (Kind.KILLED, "lost")),
        (Action.FAIL, State.FAILED, EndReason.FAILED, None),
    ],
)
def test_what_is_told_of_which_change(
    action: Action, state: State, reason: EndReason | None, told: tuple[Kind, str | None] | None
) -> None:
    found = of(action, sandbox(state, reason), 1.0)
    assert (None if found is None else (found.kind, found.reason)) == told


async def test_each_hook_is_told_what_it_asked_for(made: Callable[..., Made]) -> None:
    hooks, posts = made(all=tuple(Kind), ends=(Kind.KILLED,))
    one = sandbox()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hooks.run)
        hooks.moved(Action.READY, one)
        hooks.out_of_memory(one)
        hooks.moved(Action.GONE, sandbox(State.STOPPED, EndReason.KILLED))
        hooks.out_of_quota("us_ann")
        await until(lambda: len(posts["all"].calls) == 4 and posts["ends"].calls)
        nursery.cancel_scope.cancel()
    assert [kind for _, kind, _ in posts["all"].calls] == ["created", "oom", "killed", "quota"]
    event, kind, body = posts["all"].calls[0]
    assert (body["id"], body["event"], body["sandboxId"]) == (event, kind, one.id)
    assert (body["userId"], body["status"], body["reason"]) == ("us_ann", "running", None)
    assert set(body) == {"id", "event", "at", "userId", "sandboxId", "status", "reason"}
    assert "TOKEN" not in repr(posts["all"].calls)  # the environment is not told
    assert [kind for _, kind, _ in posts["ends"].calls] == ["killed"]


async def test_one_that_fails_is_called_again_and_one_that_hangs_holds_up_nobody(
    made: Callable[..., Made], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(webhooks, "FIRST_S", 0.01)
    hooks, posts = made(bad=tuple(Kind), hung=tuple(Kind))
    posts["bad"].refusals, posts["hung"].hangs = 3, True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hooks.run)
        hooks.moved(Action.READY, sandbox())
        await until(lambda: len(posts["bad"].calls) == 4)
        nursery.cancel_scope.cancel()
    assert len({event for event, _, _ in posts["bad"].calls}) == 1
    assert "it answered 500" in caplog.text


async def test_what_nobody_takes_is_given_up(
    made: Callable[..., Made],
    queue: DeliveryQueue,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(webhooks, "FIRST_S", 0.001)
    monkeypatch.setattr(webhooks, "TRIES", 3)
    hooks, posts = made(bad=tuple(Kind))
    posts["bad"].refusals = 100
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hooks.run)
        hooks.moved(Action.READY, sandbox())
        await until(lambda: "is given up after 3 tries" in caplog.text)
        nursery.cancel_scope.cancel()
    assert len(posts["bad"].calls) == 3
    assert await queue.next_of("bad") is None


async def test_the_queue_outlives_the_daemon_and_is_bounded(
    made: Callable[..., Made], queue: DeliveryQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "MOST", 5)
    hooks, _ = made(one=tuple(Kind))
    for _ in range(7):
        hooks.moved(Action.READY, sandbox())
    await hooks.flush()  # as at the end
    again, posts = made(one=tuple(Kind))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(again.run)
        await until(lambda: len(posts["one"].calls) == 5)
        nursery.cancel_scope.cancel()
    other, _ = made(two=tuple(Kind))
    hooks.moved(Action.READY, sandbox())
    await hooks.flush()
    with trio.move_on_after(0.5):
        await other.run()
    assert await queue.next_of("one") is None  # a hook that is not set any more


def test_waits_grow_and_are_bounded() -> None:
    waits = [wait_after(tries, 0.0) for tries in range(webhooks.TRIES)]
    assert waits[:4] == [5.0, 10.0, 20.0, 40.0]
    assert all(one <= two for one, two in itertools.pairwise(waits))
    assert max(waits) == webhooks.LONGEST_S
    assert wait_after(0, 1.0) == 3.75
    assert 12 * 3600 < sum(waits) < 24 * 3600


def test_the_signature_is_of_the_time_and_the_body() -> None:
    expected = hmac.new(b"secret", b'1700000000.{"a":1}', hashlib.sha256).hexdigest()
    assert signature(b"secret", 1_700_000_000, b'{"a":1}') == f"v1={expected}"
    assert signature(b"secret", 1_700_000_001, b'{"a":1}') != f"v1={expected}"


def test_a_secret_that_is_missing_or_short(queue: DeliveryQueue, tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_text("123456789012345\n")
    for path in (str(tmp_path / "none"), str(short)):
        with pytest.raises(HostProblem, match="secret of the webhook x"):
            Webhooks(queue, {"x": Webhook(url="https://x.example/", secret_file=path)})
