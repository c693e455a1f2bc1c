"""What is under way ends when its key does: streams, uploads, downloads, whoever waits for anything.

The key of a request is checked when it begins. Streams go on for days, so whatever has begun is held here,
and one task looks now and then whether each key is still in force: a key may also be revoked by another
process, or expire, and nobody tells. A request pays for its place in a table, and for no task of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from nsbox.api.exchange import Exchange
from nsbox.api.scopes import BASE
from nsbox.api.services import Keys
from nsbox.model.account import Caller
from nsbox.model.errors import Code, HostProblem, Problem

_log = logging.getLogger(__name__)

#: What has begun goes on for so many seconds at most after its key has ended.
LOOK_S = 0.5
ENDED = "the key is in force no more"
#: Whoever revokes the key that she does it with, or disables herself, is told that it is done.
_ACCOUNTS = (f"{BASE}/keys", f"{BASE}/users")


class Ongoing:
    """Requests and WebSockets under way."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._held: dict[Exchange, trio.CancelScope] = {}

    @contextmanager
    def hold(self, exchange: Exchange) -> Iterator[None]:
        """Cancels the block when the key of ``exchange`` ends, and raises ``INVALID_KEY``."""
        scope = trio.CancelScope()
        self._held[exchange] = scope
        try:
            with scope:
                yield
        finally:
            del self._held[exchange]
        if scope.cancelled_caught:
            raise Problem(Code.INVALID_KEY, ENDED)

    async def watch(self) -> None:
        """Look, for ever."""
        while True:
            await trio.sleep(LOOK_S)
            try:
                self.look()
            except HostProblem as problem:
                # Who comes anew is refused meanwhile. To cut everybody off would make nothing better.
                _log.warning("keys of what is open are not looked at: %s", problem.detail)

    def look(self) -> None:
        """Once. Each key is asked for once, however much is open with it."""
        known: dict[tuple[str, bool], bool] = {}
        for exchange, scope in self._held.items():
            caller = exchange.caller
            if caller is None:
                continue
            kind = caller.key.id, caller.acting_for is not None
            if kind not in known:
                known[kind] = self.in_force(caller)
            if not known[kind] and not exchange.scope["path"].startswith(_ACCOUNTS):
                exchange.cut = True
                scope.cancel()

    def in_force(self, caller: Caller) -> bool:
        """Whether the key of a request that has begun is still good for it."""
        now = self._keys.caller(caller.key.id)
        return now is not None and (caller.acting_for is None or now.may_act_for_others)
