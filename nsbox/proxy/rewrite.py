"""What is changed in heads on their way: as little as will do. Pure.

A request: what belongs to the connection goes; keys of nsbox and the cookie of links go; what says where the
request came from is replaced by the truth. A response: what belongs to the connection goes.
"""

from __future__ import annotations

import binascii
import ipaddress
import re
from collections.abc import Callable
from typing import NamedTuple

from nsbox.plan.edge import Network
from nsbox.plan.previews import Target
from nsbox.proxy.head import Fields, Request, Response, first

#: Of the connection, not of the message (RFC 9110, 7.6.1).
_HOP = frozenset(
    {b"connection", b"proxy-connection", b"keep-alive", b"te", b"upgrade", b"proxy-authorization"}
)
#: A client that names these in Connection must not get them removed.
_NEVER_HOP = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"cookie", b"authorization", b"close"}
)
#: Claims about where a request came from. Only a proxy that is trusted may make them.
_CLAIMS = frozenset({b"forwarded", b"x-real-ip", b"x-client-ip", b"true-client-ip", b"cf-connecting-ip"})
_CLAIM_PREFIX = b"x-forwarded-"
#: What no trailer of a request may be: it might be merged into the head behind our back.
NO_TRAILERS = (
    _HOP
    | _NEVER_HOP
    | _CLAIMS
    | {
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-host",
        b"x-forwarded-prefix",
        b"expect",
        b"trailer",
    }
)
#: Keys that nsbox makes; keys that were preset are known by their hash only.
_KEY = re.compile(rb"nsbox_[A-Za-z0-9_-]{43}")

COOKIE = b"nsbox_link"
_COOKIE = re.compile(rb"(?:^|;)[ \t]*nsbox_link=([^;]*)")


class Client(NamedTuple):
    """Who sent a request, as seen on the socket. ``trusted``: a proxy whose word about others is taken."""

    address: str
    trusted: bool


def client(address: str, trusted: tuple[Network, ...]) -> Client:
    """Who is at the other end; an IPv4 address is one however the socket spells it."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    parsed = getattr(parsed, "ipv4_mapped", None) or parsed
    return Client(str(parsed), any(parsed.version == one.version and parsed in one for one in trusted))


def cookie_token(request: Request) -> str | None:
    """The token of a link in the request's cookies."""
    for name, value in request.fields:
        if name.lower() == b"cookie" and (match := _COOKIE.search(value)):
            return match[1].decode("latin-1").strip()
    return None


def scheme(who: Client, request: Request) -> bytes:
    """What the visitor speaks: what a trusted proxy says, or what is spoken here."""
    if who.trusted:
        told = first(request.fields, b"x-forwarded-proto")
        if told in (b"http", b"https"):
            return told
    return b"http"


def request_head(request: Request, who: Client, target: Target, is_key: Callable[[str], bool]) -> bytes:
    """The head as the sandbox gets it."""
    fields = _without_hop(request.fields, request.connection)
    before = b""
    kept = []
    for name, value in fields:
        lower = name.lower().replace(b"_", b"-")  # some servers take the one for the other
        if lower in _CLAIMS or lower.startswith(_CLAIM_PREFIX):
            if who.trusted and lower == b"x-forwarded-for" and b"_" not in name:
                before = before + b", " + value if before else value
            continue
        if b"nsbox" in value or lower == b"authorization":
            cleaned = _without_secrets(lower, value, is_key)
            if cleaned is None:
                continue
            value = cleaned  # noqa: PLW2901 - the same field, cleaned
        kept.append((name, value))
    address = who.address.encode()
    kept.append((b"X-Forwarded-For", before + b", " + address if before else address))
    kept.append((b"X-Forwarded-Proto", scheme(who, request)))
    if request.host:
        kept.append((b"X-Forwarded-Host", request.host))
    if target.prefix:
        kept.append((b"X-Forwarded-Prefix", target.prefix))
    if request.upgrade is not None:
        kept += [(b"Connection", b"Upgrade"), (b"Upgrade", request.upgrade)]
    path = request.target[len(target.prefix) :]
    if not path.startswith((b"/", b"*")):
        path = b"/" + path
    line = b"%s %s HTTP/1.%d\r\n" % (request.method, path, request.minor)
    return line + _lines(kept)


def response_head(response: Response, *, close: bool, cookie: bytes = b"") -> bytes:
    """The head as the visitor gets it."""
    fields = _without_hop(response.fields, response.connection)
    if response.status == 101:
        fields += [(b"Connection", b"Upgrade")]
        fields += [(b"Upgrade", value) for name, value in response.fields if name.lower() == b"upgrade"]
    elif close and response.status >= 200:
        fields.append((b"Connection", b"close"))
    if cookie:
        fields.append((b"Set-Cookie", cookie))
    return b"HTTP/1.1 %d %s\r\n" % (response.status, response.reason) + _lines(fields)


def _without_hop(fields: Fields, connection: frozenset[bytes]) -> Fields:
    dropped = _HOP | (connection - _NEVER_HOP) if connection else _HOP
    return [pair for pair in fields if pair[0].lower() not in dropped]


def _without_secrets(name: bytes, value: bytes, is_key: Callable[[str], bool]) -> bytes | None:
    """A field's value without what is nsbox's alone; None when nothing of it may go on."""
    if name == b"cookie":
        value = _COOKIE.sub(b"", value).lstrip(b"; \t")
        if not value:
            return None
    if _KEY.search(value):
        return None
    if name == b"authorization" and any(is_key(secret) for secret in _credentials(value)):
        return None
    return value


def _credentials(value: bytes) -> list[str]:
    """What in an Authorization field may be a key: the token, and both halves of Basic."""
    kind, _, rest = value.partition(b" ")
    rest = rest.strip()
    found = [rest.decode("latin-1")]
    if kind.lower() == b"basic":
        try:
            found += binascii.a2b_base64(rest).decode("latin-1").split(":", 1)
        except binascii.Error:
            pass
    return [one for one in found if one]


def _lines(fields: Fields) -> bytes:
    return b"".join([b"%s: %s\r\n" % field for field in fields]) + b"\r\n"
