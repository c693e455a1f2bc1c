"""Addresses of clients: what counts as one client, and which are set apart. Pure."""

from __future__ import annotations

import ipaddress

from nsbox.plan.edge import Network

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def parsed(text: str) -> Address | None:
    """An address, IPv4 where it is one in the clothes of IPv6; None where it is none."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = getattr(found, "ipv4_mapped", None)
    return mapped if isinstance(mapped, ipaddress.IPv4Address) else found


def within(one: Address, networks: tuple[Network, ...]) -> bool:
    """Whether it is in one of them."""
    return any(one.version == network.version and one in network for network in networks)


def neighbourhood(text: str) -> str:
    """What counts as one client. Whoever has an IPv6 address has 2^64 of them."""
    found = parsed(text)
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((found, 64), strict=False))
    return text if found is None else str(found)
