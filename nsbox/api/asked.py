"""A request as its handler has it."""

from __future__ import annotations

import msgspec

from nsbox.api.query import Query
from nsbox.model.account import Caller


class Asked(msgspec.Struct, frozen=True):
    """Whose it is, with which parameters and body, and by which key (its id). ``repeatable``: the
    Idempotency-Key, where one was sent."""

    owner: str
    query: Query
    body: bytes
    caller: Caller
    repeatable: str | None = None

    @property
    def key(self) -> str:
        """The id of the key that asks."""
        return self.caller.key.id
