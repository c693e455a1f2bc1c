"""The dashboard's files: a table made at the start, from exact paths to bytes.

No path of a request ever reaches the file system, so there is nothing to traverse. Nothing here knows a key:
the page asks for one and sends it with each request of the API (ADR 0072).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple

from isal import igzip

import nsbox.web
from nsbox.api import pages
from nsbox.api.exchange import Exchange, Headers
from nsbox.api.pages import Form

_FOLDER = os.path.join(os.path.dirname(nsbox.web.__file__), "static")
_INDEX = "/index.html"
_TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".mjs": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
    ".txt": b"text/plain; charset=utf-8",
}
#: Nothing from elsewhere, nothing inline, no frame around it; and no text that becomes HTML: with Trusted
#: Types and no policy for them, assigning to innerHTML and its kin is an error (ADR 0073).
POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    b"form-action 'none'; base-uri 'none'; frame-ancestors 'none'; "
    b"require-trusted-types-for 'script'; trusted-types 'none'"
)
_COMMON: Headers = [
    (b"cache-control", b"no-cache"),  # kept, and asked for again each time: an upgrade is seen at once
    (b"vary", b"accept-encoding"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", POLICY),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
    (b"x-frame-options", b"DENY"),
]
_GZIP = re.compile(rb"\bgzip\b(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))", re.IGNORECASE)
Handler = Callable[[Exchange], Awaitable[None]]


class Asset(NamedTuple):
    """A file. ``packed`` is none where packing does not pay."""

    kind: bytes
    plain: Form
    packed: Form | None


def routes(folder: str = _FOLDER) -> dict[str, Handler]:
    """By path, as the gate takes them."""
    found = load(folder)
    if _INDEX in found:
        found["/"] = found.pop(_INDEX)
    return {path: partial(_serve, asset) for path, asset in found.items()}


def load(folder: str) -> dict[str, Asset]:
    """All files below ``folder`` that have a type we know, by their paths."""
    found = {}
    for where, _, names in os.walk(folder):
        for name in names:
            kind = _TYPES.get(os.path.splitext(name)[1])
            path = os.path.join(where, name)
            if kind is not None:
                with open(path, "rb") as file:
                    found["/" + os.path.relpath(path, folder)] = _asset(kind, file.read())
    return found


def _asset(kind: bytes, body: bytes) -> Asset:
    digest = hashlib.sha256(body).hexdigest()[:32].encode()
    packed = igzip.compress(body, 3, mtime=0)
    form = Form(packed, b'"%s-gzip"' % digest) if len(packed) < len(body) else None
    return Asset(kind, Form(body, b'"%s"' % digest), form)


async def _serve(asset: Asset, exchange: Exchange) -> None:
    pages.only_read(exchange, "the dashboard is only read")
    exchange.common = _COMMON
    if asset.packed is not None and _GZIP.search(exchange.header(b"accept-encoding") or b""):
        await pages.send(exchange, asset.kind, asset.packed, [(b"content-encoding", b"gzip")])
    else:
        await pages.send(exchange, asset.kind, asset.plain, [])
