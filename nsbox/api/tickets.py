"""Tickets: how a browser gets a WebSocket. It can send no Authorization header there, and a key in an address
would stand in histories and logs. So whoever has a key asks for a ticket, which is good for one connection to
one process, once, and soon, from one origin; the page sends it as a sub-protocol.
"""

from __future__ import annotations

import secrets
import time
from typing import Generic, NamedTuple, TypeVar

from nsbox.model.account import Caller
from nsbox.model.errors import Code, Problem

#: The sub-protocol; with a dot and a ticket behind it, a second one that is never chosen.
PROTOCOL = "nsbox.v1"
#: How long a ticket is good for, in seconds; and how many there may be.
KEEP_S = 30
_MOST = 10_000
T = TypeVar("T")


class _Made(NamedTuple, Generic[T]):
    what: T
    until: float


class OneUse(Generic[T]):
    """What was promised to whoever holds a secret: once, and soon. In memory only: an api that takes over
    knows nothing of it, and the client asks again."""

    def __init__(self) -> None:
        self._made: dict[str, _Made[T]] = {}

    def make(self, what: T) -> str:
        """The secret. Of too many the oldest is forgotten."""
        now = time.monotonic()
        while self._made:  # in the order of their age, since all last as long
            oldest = next(iter(self._made))
            if self._made[oldest].until > now and len(self._made) < _MOST:
                break
            del self._made[oldest]
        secret = secrets.token_hex(24)
        self._made[secret] = _Made(what, now + KEEP_S)
        return secret

    def take(self, secret: str) -> T | None:
        """What it was made for, which is used up with this; None where it is not known, or too late."""
        found = self._made.pop(secret, None)
        return None if found is None or found.until < time.monotonic() else found.what


class _Ticket(NamedTuple):
    caller: Caller
    place: tuple[str, str]
    origin: str | None


class Tickets:
    """Those for WebSockets."""

    def __init__(self) -> None:
        self._made: OneUse[_Ticket] = OneUse()

    def make(self, caller: Caller, sandbox_id: str, key: str, origin: str | None) -> str:
        """A new one. ``origin``: that of the page that will use it; None: no page will."""
        return self._made.make(_Ticket(caller, (sandbox_id, key), origin))

    def take(self, ticket: str, sandbox_id: str, key: str, origin: str | None) -> Caller:
        """Whose it is, whose key may be in force no more; it is used up, also where it does not fit. Raises
        ``INVALID_KEY``."""
        found = self._made.take(ticket)
        if found is None or found.place != (sandbox_id, key) or found.origin != origin:
            raise Problem(
                Code.INVALID_KEY,
                "the ticket is not known, is used up, or is for another process or origin",
                remedy="ask for a new one: POST …/processes/ID/ticket",
            )
        return found.caller
