"""Where a request came from, as far as that can be known."""

from __future__ import annotations

import ipaddress
from typing import Any

from nsbox.plan.edge import Network

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
UNKNOWN = "unknown"


def address(scope: dict[str, Any], trusted: tuple[Network, ...]) -> str:
    """The client's address: the socket's, or the last that trusted proxies tell of and that is none of
    them. What stands further to the left in ``X-Forwarded-For`` is the client's own claim."""
    peer = _parsed((scope.get("client") or ("",))[0])
    if peer is None:
        return UNKNOWN
    if not trusted or not _within(peer, trusted):
        return str(peer)
    told = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for")
    for claim in reversed(told.decode("latin-1").split(",")):
        claimed = _parsed(claim.strip())
        if claimed is None:
            break
        peer = claimed
        if not _within(claimed, trusted):
            break
    return str(peer)


def neighbourhood(text: str) -> str:
    """What counts as one client. Whoever has an IPv6 address has 2^64 of them."""
    parsed = _parsed(text)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return text


def _parsed(text: str) -> _Address | None:
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = getattr(parsed, "ipv4_mapped", None)
    return mapped if isinstance(mapped, ipaddress.IPv4Address) else parsed


def _within(one: _Address, networks: tuple[Network, ...]) -> bool:
    return any(one.version == network.version and one in network for network in networks)
