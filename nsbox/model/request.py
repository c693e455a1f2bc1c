"""A request that may be sent again. Pure data."""

from __future__ import annotations

import msgspec


class Request(msgspec.Struct, frozen=True):
    """An Idempotency-Key and what it was used for, both as hashes: bodies hold secrets."""

    key: str
    body: str
