"""Where a request came from, as far as that can be known."""

from __future__ import annotations

from typing import Any

from nsbox.plan.addresses import parsed, within
from nsbox.plan.edge import Network

UNKNOWN = "unknown"


def address(scope: dict[str, Any], trusted: tuple[Network, ...]) -> str:
    """The client's address: the socket's, or the last that trusted proxies tell of and that is none of
    them. What stands further to the left in ``X-Forwarded-For`` is the client's own claim."""
    peer = parsed((scope.get("client") or ("",))[0])
    if peer is None:
        return UNKNOWN
    if not trusted or not within(peer, trusted):
        return str(peer)
    told = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for")
    for claim in reversed(told.decode("latin-1").split(",")):
        claimed = parsed(claim.strip())
        if claimed is None:
            break
        peer = claimed
        if not within(claimed, trusted):
            break
    return str(peer)
