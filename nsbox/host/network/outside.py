"""What lies around the network: the host's own addresses, its resolvers, and the ranges that are not the
internet."""

import ipaddress
import os
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from nsbox.host.network.netlink import Netlink, Request, attributes, messages

#: What is not the internet (IANA's special-purpose registries, RFC 6890 and later). IPv6 is named from the
#: other side: only 2000::/3 is given out, so all else is inside: loopback, ::ffff:0:0/96 (v4-mapped),
#: 64:ff9b::/96 and 64:ff9b:1::/48 (NAT64), 100::/64, fc00::/7, fe80::/10, ff00::/8. Within it are tunnels,
#: which spell IPv4 addresses. Ranges for documentation are not here: nothing is inside behind them.
INSIDE: Final = tuple(
    ipaddress.ip_network(one)
    for one in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
        "192.0.0.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4",
        "::/3", "2001::/32", "2001:10::/28", "2001:20::/28", "2001:db8::/32", "2002::/16", "4000::/2",
        "8000::/1", )
)  # fmt: skip
_RESOLV_CONF: Final = "/etc/resolv.conf"
_NEWADDR, _GETADDR = 20, 22
_ADDRESS = struct.Struct("=BBBBI")
#: Groups of a routing socket that hear of addresses (RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR).
ADDRESS_GROUPS: Final = 0x10 | 0x100

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Host(NamedTuple):
    """The host's own addresses, and the networks that it is on the link of."""

    addresses: tuple[bytes, ...]
    networks: tuple[Network, ...]


def host(routes: Netlink) -> Host:
    """As they are now, in the network namespace of ``routes``."""
    addresses, networks = [], []
    for one in routes.dump(Request(_GETADDR, 0, _ADDRESS.pack(0, 0, 0, 0, 0))):
        if one.kind != _NEWADDR:
            continue
        _, length, _, _, _ = _ADDRESS.unpack_from(one.body)
        parts = dict(attributes(one.body, _ADDRESS.size))
        # IFA_LOCAL is the own address; IFA_ADDRESS is that too, but for point-to-point links, where it is
        # the peer's.
        for packed in {parts.get(2), parts.get(1)} - {None}:
            assert packed is not None
            addresses.append(packed)
            networks.append(ipaddress.ip_network((packed, length), strict=False))
    return Host(tuple(sorted(set(addresses))), tuple(sorted(set(networks), key=str)))


def drain(routes: Netlink) -> None:
    """Take what a socket of groups has heard: that something changed is all that counts."""
    try:
        for _ in messages(routes.receive()):
            pass
    except OSError:
        pass  # some were lost: all is read anew anyway


class Resolvers:
    """The host's name servers, read again when the file changes."""

    def __init__(self, forwarder: str) -> None:
        self._forwarder = forwarder
        self._stamp: tuple[int, int] | None = None
        self._servers: list[str] = []

    def servers(self) -> list[str]:
        """Where to ask, best first: by way of pasta's forwarder, which reaches a resolver on the host's
        loopback too, then the servers themselves. The first of them only so: pasta of 2023 puts the
        forwarder's address on all that comes from it, and an answer to a question asked directly would look
        like another's."""
        return [self._forwarder, *self.direct()]

    def direct(self) -> list[str]:
        """The servers themselves, for TCP, which pasta forwards to nobody. None on the host's loopback."""
        try:
            status = os.stat(_RESOLV_CONF)
            stamp = (status.st_mtime_ns, status.st_ino)
            if stamp != self._stamp:
                with open(_RESOLV_CONF, encoding="utf-8", errors="replace") as file:
                    found = list(_listed(file.read()))
                self._servers = [one for one in found if not ipaddress.ip_address(one).is_loopback]
                self._stamp = stamp
        except OSError:
            self._servers = []
        return self._servers


def _listed(content: str) -> Iterator[str]:
    for line in content.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                yield str(ipaddress.ip_address(words[1]))  # one with a zone (%eth0) is of no use in here
            except ValueError:
                continue
