"""When a call is tried again, and for how long: the same for both clients, without a clock or a socket.

Sent again is what is safe to be done twice, what has an Idempotency-Key, and what nobody has seen yet: never
anything that could run a command a second time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from typing import NamedTuple, TypeVar

from nsbox.client.call import Call, Request
from nsbox.client.errors import ApiError, ConnectionFailed, from_answer

T = TypeVar("T")

_USUAL = 60.0
#: Of a proxy in front, while nsbox is away. nsbox's own answers have a code, and say what they mean.
_AWAY = frozenset({502, 503, 504})


class Retries(NamedTuple):
    """How patient a client is. ``patience``: for how many seconds it tries again after a failure; 0: never.
    The pauses between grow from ``first`` to ``longest``. ``reach``: the patience as long as nothing was ever
    reached there, if that is another: whoever has mistyped an address need not wait."""

    patience: float = 30.0
    first: float = 0.1
    longest: float = 5.0
    reach: float | None = None

    @property
    def unreached(self) -> Retries:
        """What counts as long as nothing was ever reached."""
        return self if self.reach is None else self._replace(patience=self.reach)


class Pause(NamedTuple):
    """Wait so long, in seconds."""

    seconds: float


class Answer(NamedTuple):
    """A whole answer."""

    status: int
    headers: dict[str, str]
    body: bytes


def jitter() -> float:
    """0.5 to 1: clients that failed together do not come back together."""
    return 0.5 + os.urandom(1)[0] / 510


class Attempts:
    """The failures of one thing that is tried. After something got through, ``progressed``."""

    def __init__(
        self,
        retries: Retries,
        clock: Callable[[], float] = time.monotonic,
        spread: Callable[[], float] = jitter,
    ) -> None:
        self._retries, self._clock, self._spread = retries, clock, spread
        self._failures = 0
        self._until = 0.0

    def progressed(self) -> None:
        """The next failure is a first one."""
        self._failures = 0

    def pause(self, error: Exception, at_least: float = 0.0) -> float:
        """How long to wait before the next try. Raises ``error`` when it is time to give up."""
        now = self._clock()
        if self._failures == 0:
            self._until = now + self._retries.patience
        grown: float = self._retries.first * 2.0 ** min(self._failures, 30)
        wait = max(min(self._retries.longest, grown) * self._spread(), at_least)
        self._failures += 1
        if now + wait > self._until:
            raise error
        return wait

    def lost(self, error: ConnectionFailed, *, safe: bool) -> float:
        """The pause after no answer, where a request that may have arrived may be sent again."""
        if error.sent and not safe:
            raise error
        return self.pause(error)

    def refused(self, error: ApiError, *, safe: bool) -> float:
        """The pause after an answer that says: later. Too many requests (429) were not looked at at all; a
        503 may come of half a work, so there it must be safe."""
        if error.retry_after is not None and (error.status == 429 or (error.status == 503 and safe)):
            return self.pause(error, error.retry_after)
        if safe and (error.code == "shutting_down" or (error.code is None and error.status in _AWAY)):
            return self.pause(error)
        raise error


def new_key() -> str:
    """An Idempotency-Key nobody else has."""
    return f"nsbox-client-{os.urandom(16).hex()}"


def request_of(call: Call[T]) -> Request:
    """The request for a call, with a key of its own where it needs one."""
    headers = [("Accept", "application/json")]
    if call.body is not None:
        headers.append(("Content-Type", "application/json"))
    if call.keyed:
        headers.append(("Idempotency-Key", call.key or new_key()))
    return Request(call.method, call.target, tuple(headers), call.body, _USUAL + call.patience)


def steps(
    call: Call[T], retries: Retries, attempts: Attempts | None = None
) -> Generator[Request | Pause, Answer | ConnectionFailed | None, T]:
    """All of a call but the doing: give each request's outcome back, and wait when told to."""
    request, attempts = request_of(call), attempts or Attempts(retries)
    safe, seen = call.safe or call.keyed, False
    while True:
        outcome = yield request
        assert outcome is not None
        if isinstance(outcome, ConnectionFailed):
            wait = attempts.lost(outcome, safe=safe)
            seen = seen or outcome.sent
        elif 200 <= outcome.status < 300:
            return call.parse(outcome.body)
        else:
            error = from_answer(outcome.status, outcome.body, outcome.headers.get("retry-after"))
            if seen and call.again is not None and error.status == 404 and error.code != "sandbox_not_found":
                return call.again()  # an earlier try did it, and its answer was lost
            wait = attempts.refused(error, safe=safe)
        yield Pause(wait)
