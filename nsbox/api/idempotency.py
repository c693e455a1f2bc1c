"""``Idempotency-Key``: a request that is sent again gets the answer of the first, and nothing is done twice.

Both the key and what was asked for are kept as hashes only: bodies hold secrets, and keys are anybody's
words."""

from __future__ import annotations

import hashlib

import msgspec

from nsbox.api.exchange import Exchange
from nsbox.model.command import Request
from nsbox.model.errors import Code, Problem

HEADER = "Idempotency-Key"
_HEADER = HEADER.lower().encode()
_MAX = 255
_ENCODER = msgspec.json.Encoder(order="deterministic")


def presented(exchange: Exchange) -> str | None:
    """The key that was sent, whatever it is."""
    value = exchange.header(_HEADER)
    return None if value is None else value.decode("latin-1")


def request(key: str | None, kind: str, wish: msgspec.Struct) -> Request | None:
    """What is known of a request that has the header; None for one that has not."""
    if key is None:
        return None
    if not (0 < len(key) <= _MAX and key.isascii() and key.isprintable()):
        raise Problem(Code.INVALID_FIELD, f"{HEADER} has 1 to {_MAX} visible characters", field=HEADER)
    body = kind.encode() + b"\0" + _ENCODER.encode(wish)
    return Request(hashlib.sha256(key.encode()).hexdigest(), hashlib.sha256(body).hexdigest())
