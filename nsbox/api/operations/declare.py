"""What an operation of the API is: the shape of the registry that the OpenAPI document, the page of it and
the audit log are made from."""

from __future__ import annotations

from typing import Any

import msgspec

from nsbox.api.parameters import JSON, Known
from nsbox.model.errors import Code

BASE = "/api/v1"
JSON_TYPE = "application/json"
EVENTS = "text/event-stream"
OCTETS = "application/octet-stream"
TAR = "application/x-tar"

#: What every request with a key can be answered.
ALWAYS = (
    Code.INVALID_REQUEST,
    Code.MISSING_KEY,
    Code.INVALID_KEY,
    Code.FORBIDDEN,
    Code.ROUTE_NOT_FOUND,
    Code.USER_NOT_FOUND,
    Code.TOO_MANY_REQUESTS,
    Code.TOO_MANY_FAILURES,
    Code.HOST_LACKS,
    Code.SHUTTING_DOWN,
    Code.INTERNAL,
)
#: What a request with a JSON body can be answered besides.
WITH_BODY = (Code.INVALID_JSON, Code.UNSUPPORTED_MEDIA_TYPE, Code.BODY_TOO_LARGE, Code.INVALID_FIELD)
#: What acts on a sandbox that must be in a state for it; the last two where it must be resumed first.
ON_SANDBOX = (
    Code.WRONG_STATE,
    Code.SANDBOX_GONE,
    Code.SANDBOX_UNRESPONSIVE,
    Code.QUOTA_EXHAUSTED,
    Code.PLAN_LIMIT,
)


class Content(msgspec.Struct, frozen=True):
    """One form of a body: JSON of a type, of one of several, or bytes. ``events``: the types of the data of
    server-sent events, by their names."""

    kind: str = JSON_TYPE
    type: Any = None
    example: Any = None
    events: dict[str, Any] = {}

    def types(self) -> list[Any]:
        """All that the document must know."""
        own = self.type if isinstance(self.type, tuple) else (self.type,)
        return [type_ for type_ in (*own, *self.events.values()) if type_ is not None]


class Answer(msgspec.Struct, frozen=True):
    """What is answered when all went well."""

    text: str
    contents: tuple[Content, ...] = ()
    status: int = 200
    headers: dict[str, str] = {}


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One operation. ``name`` is its id in the document, in the audit log and, of Quart's routes, its
    endpoint."""

    name: str
    method: str
    path: str
    tag: str
    summary: str
    text: str = ""
    query: Known = ()
    headers: tuple[str, ...] = ()
    body: tuple[Content, ...] = ()
    answers: tuple[Answer, ...] = ()
    errors: tuple[Code, ...] = ()
    key: bool = True
    extra: JSON = {}

    def codes(self) -> tuple[Code, ...]:
        """All errors that it can be answered with."""
        found = [*(ALWAYS if self.key else (Code.INVALID_REQUEST, Code.INTERNAL)), *self.errors]
        if self.body:
            found += WITH_BODY
        if self.query:
            found.append(Code.INVALID_FIELD)
        if "{sandboxId}" in self.path:
            found.append(Code.SANDBOX_NOT_FOUND)
        return tuple(dict.fromkeys(found))

    @property
    def changes(self) -> bool:
        """Whether it changes anything."""
        return self.method not in ("GET", "HEAD") or self.name == "attach_process"


def json_of(
    type_: Any, text: str, example: Any = None, status: int = 200, **headers: str
) -> tuple[Answer, ...]:
    """The usual answer. ``headers``: what they say, by their names with underscores for hyphens."""
    told = {name.replace("_", "-"): what for name, what in headers.items()}
    return (Answer(text, (Content(JSON_TYPE, type_, example),), status, told),)


def body_of(type_: Any, example: Any = None) -> tuple[Content, ...]:
    """The usual body."""
    return (Content(JSON_TYPE, type_, example),)
