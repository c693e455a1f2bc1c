"""How a page that is the same for everybody is sent: kept by the browser, and asked for again each time."""

from __future__ import annotations

import re
from typing import NamedTuple

from nsbox.api.exchange import Exchange, Headers
from nsbox.model.errors import Code, Problem

_TAG = re.compile(rb'"[^"]*"')


class Form(NamedTuple):
    """One way to send a page: these bytes, under this name for caches."""

    body: bytes
    tag: bytes


def only_read(exchange: Exchange, detail: str) -> None:
    """Refuse everything but GET and HEAD. Raises ``METHOD_NOT_ALLOWED``."""
    if exchange.scope["method"] not in ("GET", "HEAD"):
        raise Problem(Code.METHOD_NOT_ALLOWED, detail, allowed=["GET", "HEAD"])


async def send(exchange: Exchange, kind: bytes, form: Form, more: Headers) -> None:
    """The page, or a word that the client has it."""
    headers: Headers = [(b"etag", form.tag)]
    if _has(exchange.header(b"if-none-match"), form.tag):
        await exchange.send({"type": "http.response.start", "status": 304, "headers": headers})
        await exchange.send({"type": "http.response.body", "body": b""})
        return
    headers += [(b"content-type", kind), (b"content-length", b"%d" % len(form.body)), *more]
    body = b"" if exchange.scope["method"] == "HEAD" else form.body
    await exchange.send({"type": "http.response.start", "status": 200, "headers": headers})
    await exchange.send({"type": "http.response.body", "body": body})


def _has(condition: bytes | None, tag: bytes) -> bool:
    """``If-None-Match`` (RFC 9110, 13.1.2), compared weakly."""
    if condition is None:
        return False
    return condition.strip() == b"*" or tag in _TAG.findall(condition)
