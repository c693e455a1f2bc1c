"""Webhooks: what happens to sandboxes is written to a queue, and told from there until it is taken.

Each hook has a task of its own, so that one that hangs holds up no other. What fails is tried again later,
and what is due meanwhile is told before it: receivers order by ``at`` and know an event again
by its ``id``."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime

import msgspec
import trio

from nsbox.model.errors import HostProblem
from nsbox.model.happening import Happening, Kind, new_id, of
from nsbox.model.lifecycle import Action
from nsbox.model.sandbox import Sandbox
from nsbox.service.post import PATIENCE_S, Answered, Post
from nsbox.settings import Webhook
from nsbox.store.deliveries import Delivery, DeliveryQueue

_log = logging.getLogger(__name__)

FIRST_S, LONGEST_S = 5.0, 3_600.0
#: After some 17 hours it is given up.
TRIES = 24
#: What waits for one hook; then the oldest go.
MOST = 10_000
_IDLE_S = 60.0


def wait_after(tries: int, chance: float) -> float:
    """Twice as long each time, less up to a quarter: many that failed together do not come together again."""
    return min(FIRST_S * 2.0 ** min(tries, 20), LONGEST_S) * (1 - chance / 4)


def body_of(happening: Happening) -> bytes:
    """What is sent."""
    moment = datetime.fromtimestamp(happening.at, UTC).isoformat(timespec="milliseconds")
    return msgspec.json.encode(
        {
            "id": happening.id,
            "event": happening.kind,
            "at": moment.replace("+00:00", "Z"),
            "userId": happening.user,
            "sandboxId": happening.sandbox,
            "status": happening.status,
            "reason": happening.reason,
        }
    )


class Webhooks:
    """Told by the registry; ``run`` tells the hooks."""

    def __init__(
        self,
        queue: DeliveryQueue,
        hooks: Mapping[str, Webhook],
        post: Callable[[Webhook, bytes], Post] = lambda hook, secret: Post(
            hook.url, secret, private=hook.private
        ),
    ) -> None:
        """Raises ``HostProblem`` where a secret cannot be read."""
        self._queue, self._hooks = queue, hooks
        self._posts = {name: post(hook, _secret(name, hook)) for name, hook in hooks.items()}
        self._waiting: list[Happening] = []
        self._news = trio.Event()
        self._due = {name: trio.Event() for name in hooks}

    def moved(self, action: Action, record: Sandbox) -> None:
        """A sandbox is in another state."""
        found = of(action, record, time.time())
        if found is not None:
            self._tell(found)

    def out_of_memory(self, record: Sandbox) -> None:
        """The kernel has ended processes of a sandbox."""
        self._tell(
            Happening(
                id=new_id(),
                kind=Kind.OOM,
                at=time.time(),
                user=record.owner,
                sandbox=record.id,
                status=record.state,
            )
        )

    def out_of_quota(self, user: str) -> None:
        """A user has used up what the plan gives."""
        self._tell(Happening(id=new_id(), kind=Kind.QUOTA, at=time.time(), user=user))

    def _tell(self, happening: Happening) -> None:
        if self._hooks:
            self._waiting.append(happening)
            self._news.set()

    async def run(self) -> None:
        """For ever."""
        if not self._hooks:
            return
        await self._queue.forget_others(list(self._hooks))
        async with trio.open_nursery() as nursery:
            for name in self._hooks:
                nursery.start_soon(self._serve, name)
            while True:
                await self._news.wait()
                self._news = trio.Event()
                try:
                    await self.flush()
                except HostProblem as problem:
                    _log.error("webhooks are not told, since nothing can be written: %s", problem.detail)
                    await trio.sleep(FIRST_S)
                    self._news.set()

    async def flush(self) -> None:
        """Write down what has happened; also the last thing that is done before the end."""
        while self._waiting:
            happening = self._waiting[0]
            wanting = [name for name, hook in self._hooks.items() if happening.kind in hook.events]
            if wanting:
                lost = await self._queue.add(wanting, happening.id, body_of(happening), happening.at, MOST)
                if lost:
                    _log.error("webhooks: %d events that nobody took are given up", lost)
            del self._waiting[0]
            for name in wanting:
                self._due[name].set()

    async def _serve(self, name: str) -> None:
        async with aclosing(_Closing(self._posts[name])):
            while True:
                self._due[name] = trio.Event()
                try:
                    wait = await self._serve_one(name)
                except HostProblem as problem:
                    _log.error("webhook %s waits for the record: %s", name, problem.detail)
                    wait = FIRST_S
                if wait > 0:
                    with trio.move_on_after(wait):
                        await self._due[name].wait()

    async def _serve_one(self, name: str) -> float:
        """Tell what is due first; how long there is nothing to do then."""
        delivery = await self._queue.next_of(name)
        if delivery is None:
            return _IDLE_S
        wait = delivery.due - time.time()
        if wait > 0:
            return min(wait, _IDLE_S)
        answered = Answered(False, f"it did not answer within {PATIENCE_S:g} s")
        with trio.move_on_after(PATIENCE_S):
            kind = str(msgspec.json.decode(delivery.body)["event"])
            answered = await self._posts[name].call(delivery.event, kind, delivery.body)
        if answered.fine:
            await self._queue.done(delivery)
        else:
            await self._failed(name, delivery, answered.why)
        return 0

    async def _failed(self, name: str, delivery: Delivery, why: str) -> None:
        if delivery.tries + 1 >= TRIES:
            _log.error("webhook %s: %s is given up after %d tries: %s", name, delivery.event, TRIES, why)
            await self._queue.done(delivery)
            return
        wait = wait_after(delivery.tries, random.random())  # noqa: S311 - nothing secret
        _log.warning("webhook %s: %s, to be tried again in %d s: %s", name, delivery.event, wait, why)
        await self._queue.again(delivery, time.time() + wait)


class _Closing:
    def __init__(self, post: Post) -> None:
        self._post = post

    async def aclose(self) -> None:
        with trio.CancelScope(shield=True):
            await self._post.close()


def _secret(name: str, hook: Webhook) -> bytes:
    try:
        with open(hook.secret_file, "rb") as file:
            secret = file.read().strip()
    except OSError as error:
        raise HostProblem(
            f"the secret of the webhook {name} cannot be read: {hook.secret_file}: {error.strerror}",
            remedy="put 16 characters or more into the file, readable by the daemon's user",
        ) from error
    if len(secret) < 16:
        raise HostProblem(
            f"the secret of the webhook {name} is short: {hook.secret_file}",
            remedy="put 16 characters or more into it: openssl rand -hex 32",
        )
    return secret
