"""What every handler behind Quart uses: the request as the gate left it, and the answer."""

from __future__ import annotations

from typing import Any

import msgspec
from quart import Response, request

from nsbox.api import idempotency, query
from nsbox.api.asked import Asked
from nsbox.api.middleware import CALL, Call

_ENCODER = msgspec.json.Encoder()


def call(known: frozenset[str]) -> Asked:
    """The request being handled; a query parameter that is not ``known`` is refused."""
    # The body was read by the gate; Quart has only an empty one.
    found: Call = request.scope[CALL]  # type: ignore[literal-required]
    return Asked(
        found.owner,
        query.parse(found.query, known),
        found.body,
        found.caller,
        request.headers.get(idempotency.HEADER),
    )


def reply(value: Any, status: int = 200, *, location: str | None = None) -> Response:
    """A JSON answer."""
    response = Response(_ENCODER.encode(value), status, content_type="application/json")
    if location is not None:
        response.headers["Location"] = location
    return response
