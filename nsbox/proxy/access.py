"""Who may visit a port that is not public: whoever has a link. Pure but for the check of its signature.

The token of a link comes in the address. A browser that navigates is sent on to the same address without it,
with a cookie of that host name, so that the token is neither in its history nor in a Referer and what the
page loads is let in as well. Everybody else is let in as they came; the token does not go on to the sandbox.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from nsbox.plan.previews import Target
from nsbox.proxy.head import Request
from nsbox.proxy.rewrite import COOKIE, cookie_token

PARAMETER = b"nsbox_link="


class Verdict(NamedTuple):
    """``request`` is what goes on, None when nobody is let in. With ``redirect`` the visitor goes there
    first."""

    request: Request | None
    redirect: bytes | None = None
    cookie: bytes = b""


def judge(request: Request, target: Target, admits: Callable[[str], int | None], scheme: bytes) -> Verdict:
    """``admits`` tells when the link of a token ends, if it opens this port."""
    token, rest = without_token(request.target)
    if token is not None and (expires_at := admits(token)) is not None:
        cookie = _cookie(token, expires_at, target, scheme)
        if _navigates(request):
            # Never to another host: two slashes at the beginning would be one.
            return Verdict(request, b"/" + rest.lstrip(b"/\\"), cookie)
        return Verdict(request._replace(target=rest), cookie=cookie)
    known = cookie_token(request)
    if known is not None and admits(known) is not None:
        return Verdict(request._replace(target=rest))
    return Verdict(None)


def without_token(target: bytes) -> tuple[str | None, bytes]:
    """The token in a target's query, and the target without it."""
    path, mark, query = target.partition(b"?")
    if not mark:
        return None, target
    pairs = query.split(b"&")
    kept = [pair for pair in pairs if not pair.startswith(PARAMETER)]
    if len(kept) == len(pairs):
        return None, target
    token = next(pair for pair in pairs if pair.startswith(PARAMETER))[len(PARAMETER) :].decode("latin-1")
    return token, path + (b"?" + b"&".join(kept) if kept else b"")


def _navigates(request: Request) -> bool:
    accept = next((value for name, value in request.fields if name.lower() == b"accept"), b"")
    return request.method == b"GET" and request.upgrade is None and b"text/html" in accept


def _cookie(token: str, expires_at: int, target: Target, scheme: bytes) -> bytes:
    """Of this host name alone (no Domain), out of the page's reach, and gone with the link."""
    seconds = max(0, expires_at - int(time.time()))
    parts = [
        COOKIE + b"=" + token.encode("latin-1"),
        b"Path=" + (target.prefix or b"") + b"/",
        b"Max-Age=%d" % seconds,
        b"HttpOnly",
        b"SameSite=Lax",
    ]
    if scheme == b"https":
        parts.append(b"Secure")
    return b"; ".join(parts)
