"""What every handler uses: the request as the gate left it, and the answer."""

from __future__ import annotations

from typing import Any

import msgspec
from quart import Response, request

from nsbox.api import query
from nsbox.api.middleware import CALL, Call
from nsbox.model.account import Caller

_ENCODER = msgspec.json.Encoder()


class Asked(msgspec.Struct, frozen=True):
    """A request: whose, with which parameters and body, and by which key (its id)."""

    owner: str
    query: query.Query
    body: bytes
    caller: Caller

    @property
    def key(self) -> str:
        """The id of the key that asks."""
        return self.caller.key.id


def call(known: frozenset[str]) -> Asked:
    """The request being handled; a query parameter that is not ``known`` is refused."""
    # The body was read by the gate; Quart has only an empty one.
    found: Call = request.scope[CALL]  # type: ignore[literal-required]
    return Asked(found.owner, query.parse(found.query, known), found.body, found.caller)


def reply(value: Any, status: int = 200, *, location: str | None = None) -> Response:
    """A JSON answer."""
    response = Response(_ENCODER.encode(value), status, content_type="application/json")
    if location is not None:
        response.headers["Location"] = location
    return response
