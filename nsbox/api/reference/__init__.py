"""``/openapi.json``, and the same for people at ``/docs``. For everybody: what is told here is in the sources
too, but for the bounds that the operator has set."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Awaitable, Callable
from functools import cache, partial

import msgspec
import trio

from nsbox.api import openapi, pages
from nsbox.api.exchange import Exchange, Headers
from nsbox.api.reference import page
from nsbox.settings import Settings

PATH = "/openapi.json"
_FOLDER = os.path.dirname(__file__)
#: Nothing from elsewhere, nothing inline, no frame around it.
POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; form-action 'none'; base-uri 'none'; "
    b"frame-ancestors 'none'"
)
_COMMON: Headers = [
    (b"cache-control", b"no-cache"),  # kept, and asked for again each time: an upgrade is seen at once
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", POLICY),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
Handler = Callable[[Exchange], Awaitable[None]]


class _Page(msgspec.Struct, frozen=True):
    kind: bytes
    form: pages.Form


def _page(kind: bytes, body: bytes) -> _Page:
    tag = b'"%s"' % hashlib.sha256(body).hexdigest()[:32].encode()
    return _Page(kind, pages.Form(body, tag))


def routes(settings: Settings) -> dict[str, Handler]:
    """By path, as the gate takes them. Each is made when it is first asked for: most daemons are never asked,
    and a start is quick."""
    made = cache(partial(openapi.document, settings))
    made_of: dict[str, Callable[[], _Page]] = {
        PATH: lambda: _page(b"application/json", msgspec.json.encode(made())),
        "/docs": lambda: _page(b"text/html; charset=utf-8", page.render(made()).encode()),
        "/docs/page.css": partial(_file, b"text/css; charset=utf-8", "page.css"),
        "/docs/page.js": partial(_file, b"text/javascript; charset=utf-8", "page.js"),
    }
    return {path: partial(_serve, cache(make)) for path, make in made_of.items()}


def _file(kind: bytes, name: str) -> _Page:
    with open(os.path.join(_FOLDER, name), "rb") as file:
        return _page(kind, file.read())


async def _serve(make: Callable[[], _Page], exchange: Exchange) -> None:
    pages.only_read(exchange, "this is only read")
    found = await trio.to_thread.run_sync(make)  # some 50 ms, once
    exchange.common = _COMMON
    await pages.send(exchange, found.kind, found.form, [])
