"""A sandbox's link: a veth pair, one end in the network namespace, the other as ``eth0`` in the sandbox's
own.

Each link is a network of its own with two ends, routed and not bridged: the interface a packet comes by says
whose it is, and nobody shares a broadcast domain (docs/adr/0040). Neighbours are permanent entries: no ARP
and no neighbour discovery, whose table (gc_thresh3, 1,024 by default) is one for the whole host.
"""

import ipaddress
import os
import socket
import struct
from typing import Final, NamedTuple

from nsbox.host.network.netlink import (
    CREATE,
    EXCLUSIVE,
    NETLINK_ROUTE,
    REPLACE,
    Netlink,
    Request,
    attribute,
    nest,
)
from nsbox.kernel import libc
from nsbox.wire import uplink

#: The interface group of all links: what firewall rules know a sandbox's packet by.
GROUP: Final = 7
#: Links' indexes are chosen, so that nobody has to ask for them: slot + this.
FIRST_INDEX: Final = 1_000
INSIDE: Final = "eth0"

_NEWLINK, _DELLINK, _NEWADDR, _NEWROUTE, _NEWNEIGH = 16, 17, 20, 24, 28
_IFINFO = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
_UP, _NODAD, _PERMANENT = 1, 0x02, 0x80
_MAIN_TABLE, _STATIC, _UNICAST, _LINK_SCOPE = 254, 4, 1, 253
_NEW = CREATE | EXCLUSIVE
_AF_BYTES = {4: int(socket.AF_INET), 6: int(socket.AF_INET6)}
_NO_LINK_LOCAL = nest(
    26, nest(int(socket.AF_INET6), attribute(8, b"\x01"))
)  # IFLA_AF_SPEC, ADDR_GEN_MODE none
#: IFLA_NUM_TX_QUEUES and IFLA_NUM_RX_QUEUES. Unless told, the kernel (since 5.16) makes as many at each end
#: as the host may ever have processors, each with 1.7 KiB (x86-64), and then uses one of each.
_ONE_QUEUE = attribute(31, struct.pack("=I", 1)) + attribute(32, struct.pack("=I", 1))

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Plan(NamedTuple):
    """The addresses of the network: of its gateway, and of the first slot."""

    gateways: tuple[Address, ...]
    first: tuple[Address, ...]

    def addresses(self, slot: int) -> tuple[Address, ...]:
        return tuple(one + slot for one in self.first)


def plan(networks: tuple[str, ...]) -> Plan:
    """Of each network, the first address is the gateway's, the second that of slot 0."""
    parsed = [ipaddress.ip_network(one) for one in networks]
    return Plan(tuple(one[1] for one in parsed), tuple(one[2] for one in parsed))


def index(slot: int) -> int:
    return FIRST_INDEX + slot


def name(slot: int) -> str:
    return f"sb{slot}"


def _mac(slot: int, inside: bool) -> bytes:
    """A locally administered address: what a frame may carry is settled by the pair, not by a table."""
    return struct.pack(">BBBBH", 0x02, 0x6E, 0x73, 0x01 if inside else 0x00, slot)


def _u32(number: int) -> bytes:
    return struct.pack("=I", number)


def _link(number: int, flags: int, *parts: bytes, change: int = 0) -> bytes:
    return _IFINFO.pack(0, 0, number, flags, change) + b"".join(parts)


def _route(destination: Address | None, link: int, family: int, gateway: Address | None = None) -> Request:
    length = destination.max_prefixlen if destination else 0
    scope = 0 if gateway or family == socket.AF_INET6 else _LINK_SCOPE
    body = _ROUTE.pack(family, length, 0, 0, _MAIN_TABLE, _STATIC, scope, _UNICAST, 0)
    if destination:
        body += attribute(1, destination.packed)
    if gateway:
        body += attribute(5, gateway.packed)
    return Request(_NEWROUTE, CREATE | REPLACE, body + attribute(4, _u32(link)))


def _neighbour(address: Address, link: int, mac: bytes) -> Request:
    body = _NEIGHBOUR.pack(_AF_BYTES[address.version], link, _PERMANENT, 0, 0)
    return Request(_NEWNEIGH, CREATE | REPLACE, body + attribute(1, address.packed) + attribute(2, mac))


def outer_requests(slot: int, netns: int, addresses: tuple[Address, ...]) -> list[Request]:
    """The pair, and this end of it."""
    number = index(slot)
    # MTU: that of pasta's interface, so that TCP segments are as large as it takes them.
    each_end = attribute(4, _u32(uplink.MTU)) + _ONE_QUEUE
    peer = _link(
        0, 0, attribute(3, INSIDE.encode() + b"\0"), attribute(1, _mac(slot, True)), each_end
    ) + attribute(28, _u32(netns))
    kind = nest(18, attribute(1, b"veth\0"), nest(2, attribute(1, peer)))
    made = _link(
        number, 0, attribute(3, name(slot).encode() + b"\0"), attribute(1, _mac(slot, False)), each_end,
        attribute(27, _u32(GROUP)), kind,
    )  # fmt: skip
    return [
        Request(_NEWLINK, _NEW, made),
        Request(_NEWLINK, 0, _link(number, 0, _NO_LINK_LOCAL)),
        Request(_NEWLINK, 0, _link(number, _UP, change=_UP)),
        *(_route(one, number, _AF_BYTES[one.version]) for one in addresses),
        *(_neighbour(one, number, _mac(slot, True)) for one in addresses),
    ]


def inner_requests(
    number: int, slot: int, addresses: tuple[Address, ...], gateways: tuple[Address, ...]
) -> list[Request]:
    """The sandbox's end."""
    made = [
        Request(_NEWLINK, 0, _link(number, 0, _NO_LINK_LOCAL)),
        Request(_NEWLINK, 0, _link(number, _UP, change=_UP)),
    ]
    for address in addresses:
        body = _ADDRESS.pack(_AF_BYTES[address.version], address.max_prefixlen, _NODAD, 0, number)
        made.append(
            Request(_NEWADDR, _NEW, body + attribute(1, address.packed) + attribute(2, address.packed))
        )
    for gateway in gateways:
        family = _AF_BYTES[gateway.version]
        made.append(_neighbour(gateway, number, _mac(slot, False)))
        made.append(_route(gateway, number, family))
        made.append(_route(None, number, family, gateway))
    return made


def plug(routes: Netlink, slot: int, netns: int, where: Plan) -> None:
    """Give the namespace ``netns`` its link. Raises ``OSError``; what was made of it then goes with
    ``unplug``."""
    addresses = where.addresses(slot)
    routes.talk(outer_requests(slot, netns, addresses))
    with _Inside(netns) as inner:
        # The peer is the second interface of a namespace that has had lo alone, hence its index.
        inner.talk(inner_requests(2, slot, addresses, where.gateways))


def unplug(routes: Netlink, slot: int) -> None:
    """Remove the link, if the end of the sandbox's namespace has not yet done so."""
    routes.talk([Request(_DELLINK, 0, _link(index(slot), 0))], ignored=frozenset({19}))  # ENODEV


class _Inside:
    """A socket in another network namespace: entered, opened, left. The process ends up where it was."""

    def __init__(self, netns: int) -> None:
        own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            libc.setns(netns, libc.CLONE_NEWNET)
            try:
                self._netlink = Netlink(NETLINK_ROUTE)
                _allow_ping()
            finally:
                libc.setns(own, libc.CLONE_NEWNET)
        finally:
            os.close(own)

    def __enter__(self) -> Netlink:
        return self._netlink

    def __exit__(self, *_: object) -> None:
        self._netlink.close()


def _allow_ping() -> None:
    """Sockets that can do nothing but ping, for every group: commands have no CAP_NET_RAW. In groups of the
    outer namespace, which is this process's: 1 is 0 in the sandbox."""
    with open("/proc/sys/net/ipv4/ping_group_range", "w", encoding="ascii") as file:
        file.write("1 65536")
