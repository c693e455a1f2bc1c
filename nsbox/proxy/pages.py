"""What a visitor is told when there is no preview to show: a page for people, a problem document for
programs."""

from __future__ import annotations

import html
from enum import StrEnum
from typing import NamedTuple

import msgspec

from nsbox.proxy.head import Request

_ENCODER = msgspec.json.Encoder()


class Fault(StrEnum):
    """Stable names, as ``code`` in problem documents."""

    MALFORMED = "malformed_request"
    NO_PREVIEW = "preview_not_found"
    NO_SANDBOX = "sandbox_not_found"
    NOT_EXPOSED = "port_not_exposed"
    LINK_NEEDED = "link_needed"
    OTHER_HOST = "misdirected_request"
    BAD_ANSWER = "bad_answer"
    NOT_LISTENING = "port_not_listening"
    PAUSED = "sandbox_paused"
    TOO_MANY = "too_many_connections"
    UNRESPONSIVE = "sandbox_unresponsive"


class Row(NamedTuple):
    """How one fault is told. ``again``: seconds after which a browser asks by itself, 0 for never."""

    status: int
    title: str
    detail: str
    again: int = 0


TABLE: dict[Fault, Row] = {
    Fault.MALFORMED: Row(400, "The request cannot be read", "It is not HTTP/1.1 that everybody reads alike."),
    Fault.NO_PREVIEW: Row(404, "There is no preview here", "This address names no port of a sandbox."),
    Fault.NO_SANDBOX: Row(404, "There is no such sandbox", "It has ended, or there never was one."),
    Fault.NOT_EXPOSED: Row(404, "The port is not exposed", "Its owner can expose it with POST …/ports."),
    Fault.LINK_NEEDED: Row(
        403,
        "A link is needed",
        "This port is not public. Ask its owner for a link; one that you had has expired.",
    ),
    Fault.OTHER_HOST: Row(
        421, "Another preview than before", "A connection serves one preview. Open another connection."
    ),
    Fault.BAD_ANSWER: Row(
        502, "The answer cannot be read", "What listens on this port does not answer in HTTP."
    ),
    Fault.NOT_LISTENING: Row(
        502, "Nothing listens on this port yet", "This page looks again by itself.", again=2
    ),
    Fault.PAUSED: Row(503, "The sandbox is paused", "Its owner can resume it.", again=10),
    Fault.TOO_MANY: Row(503, "Too many connections", "Try again in a moment.", again=5),
    Fault.UNRESPONSIVE: Row(504, "The sandbox does not answer", "Try again in a moment.", again=5),
}

_REASONS = {
    400: "Bad Request", 403: "Forbidden", 404: "Not Found", 421: "Misdirected Request",
    431: "Request Header Fields Too Large", 501: "Not Implemented", 502: "Bad Gateway",
    503: "Service Unavailable", 504: "Gateway Timeout",
}  # fmt: skip

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>{again}
<meta name="viewport" content="width=device-width">
<style>body{{font:1.1em/1.5 system-ui,sans-serif;max-width:32em;margin:20vh auto;padding:0 1em}}
small{{color:#666}}</style></head>
<body><h1>{title}</h1><p>{detail}</p><p><small>nsbox · {status} · {code}</small></p></body></html>
"""


def answer(fault: Fault, request: Request | None, *, detail: str = "", status: int = 0) -> bytes:
    """The whole answer, after which the connection is closed. ``request`` is None when it could not be
    read."""
    row = TABLE[fault]
    status, detail = status or row.status, detail or row.detail
    if request is not None and _wants_html(request):
        # Only what has no effect is asked again by itself.
        again = row.again if request.method in (b"GET", b"HEAD") else 0
        refresh = f'<meta http-equiv="refresh" content="{again}">' if again else ""
        title, shown = html.escape(row.title), html.escape(detail)
        page = _PAGE.format(title=title, detail=shown, status=status, code=fault.value, again=refresh)
        kind, body = "text/html; charset=utf-8", page.encode()
    else:
        kind = "application/problem+json"
        body = _ENCODER.encode(
            {
                "type": f"urn:nsbox:problem:{fault.value}",
                "title": row.title,
                "status": status,
                "detail": detail,
                "code": fault.value,
            }
        )
    head = [
        f"HTTP/1.1 {status} {_REASONS[status]}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; frame-ancestors *",
        "Referrer-Policy: no-referrer",
        "Connection: close",
    ]
    if row.again:
        head.append(f"Retry-After: {row.again}")
    bare = request is not None and request.method == b"HEAD"
    return "\r\n".join([*head, "", ""]).encode() + (b"" if bare else body)


def _wants_html(request: Request) -> bool:
    """Browsers say so when a person navigates; scripts and programs do not."""
    return any(name.lower() == b"accept" and b"text/html" in value for name, value in request.fields)


def redirect(location: bytes, cookie: bytes) -> bytes:
    """To the same place without the token of a link in its address, which the cookie carries from now on."""
    return (
        b"HTTP/1.1 303 See Other\r\nLocation: " + location + b"\r\nSet-Cookie: " + cookie + b"\r\n"
        b"Content-Length: 0\r\nCache-Control: no-store\r\nReferrer-Policy: no-referrer\r\n"
        b"Connection: close\r\n\r\n"
    )
