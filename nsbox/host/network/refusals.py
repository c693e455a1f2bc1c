"""What was refused, for each sandbox: packets as nfnetlink_log tells of them, and names. Bounded."""

import struct
import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Final, NamedTuple

from nsbox.host.network.links import FIRST_INDEX
from nsbox.host.network.netlink import ACK, Request, attribute, attributes

SUBSYSTEM: Final = 4
_PACKET, _CONFIG = 0, 1
_PREFIX, _PAYLOAD, _INDEV = 10, 9, 4
_PROTOCOLS: Final = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}
#: Lines that are kept of one sandbox, and names that its addresses had.
_LINES, _NAMES = 256, 512


class Refusal(NamedTuple):
    """A packet that was refused."""

    slot: int
    reason: str
    protocol: str
    address: bytes
    port: int


def bind(group: int) -> list[Request]:
    """Ask for the packets of a group, with up to 128 bytes of each. pf is unspecified: all families."""
    copy = struct.pack(">IBx", 128, 2)
    return [
        Request(SUBSYSTEM << 8 | _CONFIG, ACK, _about(group) + attribute(1, b"\x01")),
        Request(SUBSYSTEM << 8 | _CONFIG, ACK, _about(group) + attribute(2, copy)),
        # One packet a message, now: whoever looks at the log has just been refused.
        Request(SUBSYSTEM << 8 | _CONFIG, ACK, _about(group) + attribute(5, struct.pack(">I", 1))),
    ]


def _about(group: int) -> bytes:
    return struct.pack(">BBH", 0, 0, group)


def parse(kind: int, body: bytes) -> Refusal | None:
    """A message of the log, unless it is of something else."""
    if kind != SUBSYSTEM << 8 | _PACKET:
        return None
    parts = dict(attributes(body, 4))
    if _INDEV not in parts or _PAYLOAD not in parts:
        return None
    (link,) = struct.unpack(">I", parts[_INDEV])
    target = _target(parts[_PAYLOAD])
    if link < FIRST_INDEX or target is None:
        return None
    reason = parts.get(_PREFIX, b"").rstrip(b"\0").decode("ascii", "replace")
    return Refusal(link - FIRST_INDEX, reason, *target)


def _target(packet: bytes) -> tuple[str, bytes, int] | None:
    if len(packet) >= 20 and packet[0] >> 4 == 4:
        protocol, address, rest = packet[9], packet[16:20], packet[(packet[0] & 15) * 4 :]
    elif len(packet) >= 40 and packet[0] >> 4 == 6:
        protocol, address, rest = packet[6], packet[24:40], packet[40:]
    else:
        return None
    port = int.from_bytes(rest[2:4], "big") if protocol in (6, 17) and len(rest) >= 4 else 0
    return _PROTOCOLS.get(protocol, str(protocol)), address, port


class Log:
    """The last refusals of one sandbox, and the names it has asked for, which tell what an address was."""

    def __init__(self) -> None:
        self._lines: deque[tuple[float, str, str, str, int, str]] = deque(maxlen=_LINES)
        self._names: OrderedDict[bytes, str] = OrderedDict()

    def learn(self, address: bytes, name: str) -> None:
        self._names[address] = name
        self._names.move_to_end(address)
        if len(self._names) > _NAMES:
            self._names.popitem(last=False)

    def packet(self, refusal: Refusal) -> None:
        name = self._names.get(refusal.address, "")
        address = str(ip_address(refusal.address))
        self._lines.append((time.time(), refusal.reason, refusal.protocol, address, refusal.port, name))

    def question(self, name: str) -> None:
        self._lines.append((time.time(), "name", "dns", "", 0, name))

    def rows(self) -> Iterator[tuple[float, str, str, str, int, str]]:
        """Time, reason, protocol, address, port, name; oldest first."""
        return iter(self._lines)
