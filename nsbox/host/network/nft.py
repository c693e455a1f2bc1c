"""nftables as netlink requests: tables, chains, sets, elements, and the few expressions that rules are made
of.

A rule is a list of expressions, evaluated in order; one that does not match ends it. Numbers are those of
linux/netfilter/nf_tables.h.
"""

import socket
import struct
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Final

from nsbox.host.network.netlink import APPEND, CREATE, Request, attribute, be32, be64, nest, text

SUBSYSTEM: Final = 10
TABLE: Final = "nsbox"
_INET: Final = 1
_NEWTABLE, _DELTABLE, _NEWCHAIN, _DELCHAIN, _NEWRULE, _DELRULE, _NEWSET, _NEWELEM, _DELELEM = (
    0,
    2,
    3,
    5,
    6,
    8,
    9,
    12,
    14,
)

#: Set flags.
INTERVAL, MAP, TIMEOUT, DYNAMIC = 0x04, 0x08, 0x10, 0x20
#: Data types, for people who list the rules: the kernel looks at the lengths only.
IFINDEX, IPV4, IPV6, _VERDICT = 20, 7, 8, 0xFFFFFF00
_TYPE_BITS = 6

_REG_1, _REG32_00 = 1, 8
_CT_MARK = 3


class Hook(IntEnum):
    PREROUTING = 0
    INPUT = 1
    FORWARD = 2
    OUTPUT = 3
    POSTROUTING = 4


class Verdict(IntEnum):
    DROP = 0
    ACCEPT = 1
    JUMP = -3
    GOTO = -4
    RETURN = -5


class Meta(IntEnum):
    IIF = 4
    OIF = 5
    IIFNAME = 6
    OIFNAME = 7
    PROTOCOL = 15  # NFPROTO: which family a packet of an inet chain is
    L4PROTO = 16
    IIFGROUP = 21
    OIFGROUP = 22


#: Connection states, as bits.
INVALID, ESTABLISHED, RELATED, NEW, UNTRACKED = 1, 2, 4, 8, 64


def _request(kind: int, flags: int, *parts: bytes) -> Request:
    return Request(SUBSYSTEM << 8 | kind, flags, struct.pack(">BBH", _INET, 0, 0) + b"".join(parts))


# ---- tables, chains, rules


def fresh_table() -> list[Request]:
    """The table, empty, whether or not there was one: it is deleted and made in one batch."""
    made = _request(_NEWTABLE, CREATE, attribute(1, text(TABLE)))
    return [made, _request(_DELTABLE, 0, attribute(1, text(TABLE))), made]


def chain(name: str) -> Request:
    return _request(_NEWCHAIN, CREATE, attribute(1, text(TABLE)), attribute(3, text(name)))


def base_chain(name: str, hook: Hook, priority: int, policy: Verdict, kind: str = "filter") -> Request:
    where = nest(4, attribute(1, be32(hook)), attribute(2, struct.pack(">i", priority)))
    return _request(
        _NEWCHAIN, CREATE, attribute(1, text(TABLE)), attribute(3, text(name)), where,
        attribute(5, be32(policy)), attribute(7, text(kind)),
    )  # fmt: skip


def delete_chain(name: str) -> list[Request]:
    """The chain and its rules. Nothing may lead to it any more."""
    where = (attribute(1, text(TABLE)), attribute(2, text(name)))
    return [
        _request(_DELRULE, 0, *where),
        _request(_DELCHAIN, 0, attribute(1, text(TABLE)), attribute(3, text(name))),
    ]


def empty_chain(name: str) -> Request:
    return _request(_DELRULE, 0, attribute(1, text(TABLE)), attribute(2, text(name)))


def rule(chain_name: str, *expressions: bytes | Sequence[bytes]) -> Request:
    flat = [one for part in expressions for one in ([part] if isinstance(part, bytes) else part)]
    listed = nest(4, *(nest(1, one) for one in flat))
    return _request(
        _NEWRULE, CREATE | APPEND, attribute(1, text(TABLE)), attribute(2, text(chain_name)), listed
    )


# ---- sets


def new_set(
    number: int, name: str, types: Sequence[int], *, flags: int = 0, size: int = 0, verdicts: bool = False
) -> Request:
    """A set, or with ``verdicts`` a map of them. ``number`` is its id within the batch."""
    kind = 0
    for one in types:
        kind = kind << _TYPE_BITS | one
    parts = [
        attribute(1, text(TABLE)),
        attribute(2, text(name)),
        attribute(3, be32(flags | (MAP if verdicts else 0))),
        attribute(4, be32(kind)),
        attribute(5, be32(sum(16 if one == IPV6 else 4 for one in types))),
    ]
    if verdicts:
        parts += [attribute(6, be32(_VERDICT)), attribute(7, be32(0))]
    if size:
        parts.append(nest(9, attribute(1, be32(size))))
    parts.append(attribute(10, be32(number)))
    if list(types) == [IFINDEX]:
        # For nft(8) alone, which would otherwise show the numbers back to front: the key is in the host's
        # order.
        parts.append(attribute(13, b"\x00\x04" + native(1)))
    return _request(_NEWSET, CREATE, *parts)


def _elements(kind: int, flags: int, name: str, elements: Iterable[bytes]) -> Request:
    return _request(
        kind,
        flags,
        attribute(1, text(TABLE)),
        attribute(2, text(name)),
        nest(3, *(nest(1, one) for one in elements)),
    )


def add_elements(name: str, keys: Iterable[bytes], timeout_ms: int = 0) -> Request:
    life = attribute(4, be64(timeout_ms)) if timeout_ms else b""
    return _elements(_NEWELEM, CREATE, name, [_key(one) + life for one in keys])


def add_verdict(name: str, key: bytes, verdict: Verdict, target: str) -> Request:
    return _elements(_NEWELEM, CREATE, name, [_key(key) + nest(2, _verdict(verdict, target))])


def add_ranges(name: str, ranges: Iterable[tuple[bytes, bytes]]) -> Request:
    """Half-open ranges, in order and apart from each other; an end that is empty has none above it.

    The zero before the first says that what is below belongs to no range, as nft(8) puts it.
    """
    elements, first = [], True
    for start, end in ranges:
        if first and any(start):
            elements.append(_key(bytes(len(start))) + attribute(3, be32(1)))
        first = False
        elements.append(_key(start))
        if end:
            elements.append(_key(end) + attribute(3, be32(1)))
    return _elements(_NEWELEM, CREATE, name, elements)


def delete_element(name: str, key: bytes) -> Request:
    return _elements(_DELELEM, 0, name, [_key(key)])


def empty_set(name: str) -> Request:
    return _request(_DELELEM, 0, attribute(1, text(TABLE)), attribute(2, text(name)))


def _key(key: bytes) -> bytes:
    return nest(1, attribute(1, key))


def _verdict(verdict: Verdict, target: str = "") -> bytes:
    parts = [attribute(1, struct.pack(">i", verdict))]
    if target:
        parts.append(attribute(2, text(target)))
    return nest(2, *parts)


# ---- expressions


def _expression(name: str, *parts: bytes) -> bytes:
    return attribute(1, text(name)) + nest(2, *parts)


def _load(expression: str, key: int, register: int = _REG_1) -> bytes:
    return _expression(expression, attribute(1, be32(register)), attribute(2, be32(key)))


def _compare(operation: int, value: bytes, register: int = _REG_1) -> bytes:
    return _expression(
        "cmp", attribute(1, be32(register)), attribute(2, be32(operation)), nest(3, attribute(1, value))
    )


def _mask(mask: bytes) -> bytes:
    return _expression(
        "bitwise", attribute(1, be32(_REG_1)), attribute(2, be32(_REG_1)), attribute(3, be32(len(mask))),
        nest(4, attribute(1, mask)), nest(5, attribute(1, bytes(len(mask)))),
    )  # fmt: skip


def _payload(base: int, offset: int, length: int, register: int = _REG_1) -> bytes:
    parts = (register, base, offset, length)
    return _expression("payload", *(attribute(number, be32(part)) for number, part in enumerate(parts, 1)))


def native(number: int) -> bytes:
    """A number as the kernel's own registers hold it: interface indexes, groups, marks."""
    return struct.pack("=I", number)


def meta_is(key: Meta, value: int | str, *, negate: bool = False) -> list[bytes]:
    if isinstance(value, str):
        compared = value.encode().ljust(16, b"\0")
    elif key in (Meta.PROTOCOL, Meta.L4PROTO):
        compared = bytes([value])
    else:
        compared = native(value)
    return [_load("meta", key), _compare(1 if negate else 0, compared)]


def state(bits: int) -> list[bytes]:
    """The connection's state is one of these."""
    return [_load("ct", 0), _mask(native(bits)), _compare(1, native(0))]


def family(version: int) -> list[bytes]:
    return meta_is(Meta.PROTOCOL, 2 if version == 4 else 10)


def _where(version: int, source: bool) -> tuple[int, int]:
    if version == 4:
        return (12 if source else 16), 4
    return (8 if source else 24), 16


def address_in(version: int, name: str, *, source: bool = False, negate: bool = False) -> list[bytes]:
    """The packet is of that family, and its address is in the set."""
    offset, length = _where(version, source)
    return [*family(version), _payload(1, offset, length), _lookup(name, negate=negate)]


def address_within(network: bytes, mask: bytes, *, source: bool = False) -> list[bytes]:
    """The packet's address is in a network."""
    version = 4 if len(network) == 4 else 6
    offset, length = _where(version, source)
    return [*family(version), _payload(1, offset, length), _mask(mask), _compare(0, network)]


def link_and_address_in(version: int, name: str) -> list[bytes]:
    """The link a packet came by, and where it goes to, are together in the set."""
    offset, length = _where(version, False)
    return [
        *family(version), _load("meta", Meta.IIF, _REG32_00), _payload(1, offset, length, _REG32_00 + 1),
        _lookup(name, _REG32_00),
    ]  # fmt: skip


def protocol(number: int) -> list[bytes]:
    return meta_is(Meta.L4PROTO, number)


def port_between(low: int, high: int, *, source: bool = False) -> list[bytes]:
    """Of TCP, UDP or another protocol whose ports lie there."""
    loaded = _payload(2, 0 if source else 2, 2)
    if low == high:
        return [loaded, _compare(0, struct.pack(">H", low))]
    return [loaded, _compare(5, struct.pack(">H", low)), _compare(3, struct.pack(">H", high))]


def icmp_type(number: int) -> list[bytes]:
    return [_payload(2, 0, 1), _compare(0, bytes([number]))]


def wrong_way() -> list[bytes]:
    """No route leads to the packet's source by the link it came from."""
    saddr_iif = 1 | 8
    return [
        _expression("fib", attribute(1, be32(_REG_1)), attribute(2, be32(1)), attribute(3, be32(saddr_iif))),
        _compare(0, native(0)),
    ]


def _lookup(name: str, register: int = _REG_1, *, negate: bool = False) -> bytes:
    parts = [attribute(1, text(name)), attribute(2, be32(register))]
    if negate:
        parts.append(attribute(5, be32(1)))
    return _expression("lookup", *parts)


def verdict_by_link(name: str) -> list[bytes]:
    """What the map says of the link a packet came by."""
    return [
        _load("meta", Meta.IIF),
        _expression("lookup", attribute(1, text(name)), attribute(2, be32(_REG_1)), attribute(3, be32(0))),
    ]


def _per_link(name: str, limiter: bytes, operation: int) -> list[bytes]:
    """Go on while the link's own limiter, an element of a dynamic set, matches."""
    return [
        _load("meta", Meta.IIF),
        _expression(
            "dynset", attribute(1, text(name)), attribute(3, be32(operation)), attribute(4, be32(_REG_1)),
            nest(7, limiter),
        ),
    ]  # fmt: skip


def rate(name: str, per_second: int, burst: int, *, over: bool) -> list[bytes]:
    limiter = _expression(
        "limit", attribute(1, be64(per_second)), attribute(2, be64(1)), attribute(3, be32(burst)),
        attribute(4, be32(0)), attribute(5, be32(1 if over else 0)),
    )  # fmt: skip
    return _per_link(name, limiter, 1)


def connections_over(name: str, count: int) -> list[bytes]:
    return _per_link(name, _expression("connlimit", attribute(1, be32(count)), attribute(2, be32(1))), 0)


def mark_lacks(bit: int) -> list[bytes]:
    """Of the connection's mark."""
    return [_load("ct", _CT_MARK), _mask(native(bit)), _compare(0, native(0))]


def mark_by_link() -> list[bytes]:
    """The connection is marked with the index of the link that it came by."""
    return [
        _load("meta", Meta.IIF),
        _expression("ct", attribute(2, be32(_CT_MARK)), attribute(4, be32(_REG_1))),
    ]


def log(group: int, prefix: str, length: int) -> bytes:
    return _expression(
        "log", attribute(1, struct.pack(">H", group)), attribute(2, text(prefix)), attribute(3, be32(length))
    )


def untracked() -> bytes:
    return _expression("notrack")


def rejected() -> bytes:
    """ICMP of the packet's family says "administratively prohibited": a client learns at once."""
    return _expression("reject", attribute(1, be32(2)), attribute(2, b"\x03"))


def masqueraded() -> bytes:
    return _expression("masq")


def then(verdict: Verdict, target: str = "") -> bytes:
    return _expression("immediate", attribute(1, be32(0)), nest(2, _verdict(verdict, target)))


TCP, UDP, ICMP, ICMPV6 = socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6
