"""How many connections one client may have: a share of the places, so that one cannot take them all. Pure."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_network

from nsbox.plan.addresses import neighbourhood, parsed, within
from nsbox.plan.edge import Network

LOOPBACK: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1"))


class Shares:
    """Counts by address, an IPv6 network of 64 bits being one. This host's loopback and the trusted proxies
    are not counted: they speak for many, and the share would be that of all of them together. There a
    reverse proxy bounds its clients, and the requests of a user are bounded behind the key."""

    def __init__(self, most: int, apart: tuple[Network, ...]) -> None:
        self._most, self._apart = most, (*LOOPBACK, *apart)
        self._counts: Counter[str] = Counter()

    def name(self, address: str) -> str | None:
        """Whose share a connection from there takes; None if it is not counted."""
        found = parsed(address)
        if found is None or within(found, self._apart):
            return None
        return neighbourhood(address)

    def full(self, name: str | None) -> bool:
        """Whether there is no place left in a share."""
        return name is not None and self._counts[name] >= self._most

    def enter(self, name: str | None) -> None:
        """A connection begins."""
        if name is not None:
            self._counts[name] += 1

    def leave(self, name: str | None) -> None:
        """It has ended."""
        if name is not None:
            self._counts[name] -= 1
            if not self._counts[name]:
                del self._counts[name]

    def __len__(self) -> int:
        return len(self._counts)
