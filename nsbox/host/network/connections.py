"""Connections of one sandbox in the table that all share: what there is, looking at them again, ending them.

pasta holds a socket of the host's for each connection, and does not hear of what the kernel's table forgets.
One that it still holds under a port takes the packets of the next who is given that port for the same
address: it answers nothing, for up to two hours (docs/adr/0106). So what is forgotten is ended there first,
by the reset that the sandbox would have sent.

Entries are marked with the index of the link that they came by.
"""

import contextlib
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import Final, NamedTuple

from nsbox.host.network.links import Address
from nsbox.host.network.netlink import Netlink, Request, attribute, attributes, be32, nest

#: In a mark: the policy has changed since, so each packet is held against it (ruleset.py).
LOOK_AGAIN: Final = 1 << 31

_SUBSYSTEM: Final = 1
_NEW, _GET, _DELETE = 0, 1, 2
#: Attributes of nfnetlink_conntrack.h: of an entry, of a tuple, of its addresses, of its ports.
_TUPLE_ORIGINAL, _TUPLE_REPLY, _MARK, _MARK_MASK = 1, 2, 8, 21
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_V4_SRC, _V4_DST, _V6_SRC, _V6_DST = 1, 2, 3, 4
_PROTO_NUM, _PROTO_SRC_PORT, _PROTO_DST_PORT = 1, 2, 3
_NO_ENTRY: Final = frozenset({2})
_IPV6_HDRINCL: Final = 36
_RST: Final = 0x04
#: How many requests are sent in one datagram: their answers have to fit into the socket's buffer.
_BATCH: Final = 256
#: How many packets are sent at once, and the seconds between: pasta's interface queues 500, and what does not
#: fit is lost without a word.
_AT_ONCE, _PAUSE = 100, 0.002


class Connection(NamedTuple):
    """TCP as pasta knows it: from which port, to whom. ``own`` is the address that leaves."""

    own: Address
    port: int
    peer: Address
    peer_port: int


class Entry(NamedTuple):
    """One of the table. ``key`` is what the kernel finds it by; without ``connection`` it is not TCP."""

    key: bytes
    connection: Connection | None


def known(tracker: Netlink, link: int) -> list[Entry]:
    """What there is of a link, of both families. Raises ``OSError``."""
    return [parse(one.body) for one in tracker.dump(Request(_SUBSYSTEM << 8 | _GET, 0, _of_link(link)))]


def forget(tracker: Netlink, link: int) -> None:
    """The kernel drops all that there is of a link. Raises ``OSError``."""
    tracker.talk([Request(_SUBSYSTEM << 8 | _DELETE, 0, _of_link(link))], ignored=_NO_ENTRY)


def drop(tracker: Netlink, entries: Iterable[Entry]) -> None:
    """The kernel drops these; one that has gone by itself is no error. Raises ``OSError``."""
    _each(tracker, [Request(_SUBSYSTEM << 8 | _DELETE, 0, one.key) for one in entries])


def look_again(tracker: Netlink, entries: Iterable[Entry]) -> None:
    """From now on each packet of these meets the sandbox's policy. They stay in the table, and so does their
    claim to their ports. Raises ``OSError``."""
    mark = attribute(_MARK, be32(LOOK_AGAIN)) + attribute(_MARK_MASK, be32(LOOK_AGAIN))
    _each(tracker, [Request(_SUBSYSTEM << 8 | _NEW, 0, one.key + mark) for one in entries])


def _each(tracker: Netlink, requests: Sequence[Request]) -> None:
    for first in range(0, len(requests), _BATCH):
        tracker.talk(requests[first : first + _BATCH], ignored=_NO_ENTRY)


def _of_link(link: int) -> bytes:
    return bytes(4) + attribute(_MARK, be32(link)) + attribute(_MARK_MASK, be32(0xFFFFFFFF & ~LOOK_AGAIN))


def parse(body: bytes) -> Entry:
    """An entry as the kernel tells it, nfgenmsg(7) first."""
    told = dict(attributes(body, 4))
    key = body[:1] + bytes(3) + nest(_TUPLE_ORIGINAL, told.get(_TUPLE_ORIGINAL, b""))
    return Entry(key, _connection(told.get(_TUPLE_REPLY, b"")))


def _connection(answers: bytes) -> Connection | None:
    """By the tuple of the answers: behind the masquerade, that is what pasta sees, seen from the other
    side."""
    parts = dict(attributes(answers))
    addresses, ports = (dict(attributes(parts.get(kind, b""))) for kind in (_TUPLE_IP, _TUPLE_PROTO))
    if ports.get(_PROTO_NUM) != bytes([socket.IPPROTO_TCP]):
        return None
    source, target = ports.get(_PROTO_SRC_PORT, b""), ports.get(_PROTO_DST_PORT, b"")
    peer = addresses.get(_V4_SRC) or addresses.get(_V6_SRC)
    own = addresses.get(_V4_DST) or addresses.get(_V6_DST)
    if peer is None or own is None or len(source) != 2 or len(target) != 2:
        return None
    if (len(peer), len(own)) not in ((4, 4), (16, 16)):
        return None
    return Connection(
        ip_address(own), int.from_bytes(target, "big"), ip_address(peer), int.from_bytes(source, "big")
    )


def end(connections: Iterable[Connection | None]) -> None:
    """Reset those that are TCP where pasta holds them; it does not ask for a sequence number. Takes 2 ms for
    each hundred. One that cannot be sent to, for there is no route, stays: nobody else gets there either.
    Raises ``OSError`` where nothing can be sent at all."""
    waiting = [one for one in connections if one is not None]
    for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
        of_family = [one for one in waiting if one.peer.version == version]
        if of_family:
            with _raw(family) as sender:
                _reset_each(sender, of_family)


def _reset_each(sender: socket.socket, connections: Sequence[Connection]) -> None:
    for number, one in enumerate(connections, 1):
        with contextlib.suppress(OSError):
            sender.sendto(reset(one), (str(one.peer), 0))
        if number % _AT_ONCE == 0:
            time.sleep(_PAUSE)


def _raw(family: socket.AddressFamily) -> socket.socket:
    """One that only sends; headers come along, for a source may be one of several."""
    made = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW)
    if family == socket.AF_INET6:  # IPPROTO_RAW means headers for IPv4 alone, raw(7)
        made.setsockopt(socket.IPPROTO_IPV6, _IPV6_HDRINCL, 1)
    return made


def reset(one: Connection) -> bytes:
    """The packet that ends a connection: no more than its two headers."""
    ports = struct.pack(">HH", one.port, one.peer_port)
    rest = struct.pack(">IIBBH", 0, 0, 5 << 4, _RST, 0)
    ends = one.own.packed + one.peer.packed
    length = len(ports + rest) + 4
    check = _checksum(ends + struct.pack(">HH", socket.IPPROTO_TCP, length) + ports + rest)
    segment = ports + rest + struct.pack(">HH", check, 0)
    if one.peer.version == 4:  # the kernel fills in length, identification and checksum, raw(7)
        return struct.pack(">BBHHHBBH", 0x45, 0, 0, 0, 0, 64, socket.IPPROTO_TCP, 0) + ends + segment
    return struct.pack(">IHBB", 6 << 28, length, socket.IPPROTO_TCP, 64) + ends + segment


def _checksum(data: bytes) -> int:
    """RFC 1071, of whole words."""
    total: int = sum(word for (word,) in struct.iter_unpack(">H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
