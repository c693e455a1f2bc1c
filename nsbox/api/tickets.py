"""Tickets: how a browser gets a WebSocket. It can send no Authorization header there, and a key in an address
would stand in histories and logs. So whoever has a key asks for a ticket, which is good for one connection to
one process, once, and soon, from one origin; the page sends it as a sub-protocol.
"""

from __future__ import annotations

import secrets
import time
from typing import NamedTuple

from nsbox.model.account import Caller
from nsbox.model.errors import Code, Problem

#: The sub-protocol; with a dot and a ticket behind it, a second one that is never chosen.
PROTOCOL = "nsbox.v1"
KEEP_S = 30
_MOST = 10_000


class _Ticket(NamedTuple):
    caller: Caller
    place: tuple[str, str]
    origin: str | None
    until: float


class Tickets:
    """In memory only: an api that takes over knows none, and the client asks again."""

    def __init__(self) -> None:
        self._made: dict[str, _Ticket] = {}

    def make(self, caller: Caller, sandbox_id: str, key: str, origin: str | None) -> str:
        """A new one. ``origin``: that of the page that will use it; None: no page will."""
        now = time.monotonic()
        while self._made:  # in the order of their age, since all last as long
            oldest = next(iter(self._made))
            if self._made[oldest].until > now and len(self._made) < _MOST:
                break
            del self._made[oldest]
        made = secrets.token_hex(24)
        self._made[made] = _Ticket(caller, (sandbox_id, key), origin, now + KEEP_S)
        return made

    def take(self, ticket: str, sandbox_id: str, key: str, origin: str | None) -> Caller:
        """Whose it is, whose key may be in force no more; it is used up, also where it does not fit. Raises
        ``INVALID_KEY``."""
        found = self._made.pop(ticket, None)
        if (
            found is None
            or found.until < time.monotonic()
            or found.place != (sandbox_id, key)
            or found.origin != origin
        ):
            raise Problem(
                Code.INVALID_KEY,
                "the ticket is not known, is used up, or is for another process or origin",
                remedy="ask for a new one: POST …/processes/ID/ticket",
            )
        return found.caller
