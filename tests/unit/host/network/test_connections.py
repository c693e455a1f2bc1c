"""Entries of the connection table as the kernel tells them, and the packets that end what pasta holds."""

from __future__ import annotations

import errno
import socket
import struct
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbox.host.network import connections
from nsbox.host.network.connections import Connection
from nsbox.host.network.netlink import attribute, nest
from nsbox.host.network.policy import OFF, Policy

_PORTS = st.integers(0, 65_535)


def _tuple(source: str, target: str, protocol: int, ports: tuple[int, int]) -> bytes:
    v4 = ip_address(source).version == 4
    ends = (
        attribute(1 if v4 else 3, ip_address(source).packed),
        attribute(2 if v4 else 4, ip_address(target).packed),
    )
    numbers = [attribute(2 + place, struct.pack(">H", port)) for place, port in enumerate(ports)]
    return nest(1, *ends) + nest(2, attribute(1, bytes([protocol])), *numbers)


def _entry(protocol: int, family: int = socket.AF_INET, ends: tuple[str, str, str] | None = None) -> bytes:
    inside, own, peer = ends or ("10.209.0.5", "11.7.7.7", "11.22.33.44")
    original = nest(1, _tuple(inside, peer, protocol, (40_000, 443)))
    answers = nest(2, _tuple(peer, own, protocol, (443, 50_123)))
    return bytes([family, 0, 0, 0]) + original + answers + attribute(8, struct.pack(">I", 1_000_007))


@pytest.mark.parametrize(
    ("family", "ends"),
    [
        (socket.AF_INET, ("10.209.0.5", "11.7.7.7", "11.22.33.44")),
        (socket.AF_INET6, ("fd6e:7362:6f78::5", "2a0a::7", "2a0a:1234::44")),
    ],
)
def test_it_is_seen_from_pastas_side(family: int, ends: tuple[str, str, str]) -> None:
    """The port that the masquerade chose, not the one that the sandbox did; the kernel finds the entry by the
    sandbox's."""
    entry = connections.parse(_entry(6, family, ends))
    assert entry.connection == Connection(ip_address(ends[1]), 50_123, ip_address(ends[2]), 443)
    assert entry.key == bytes([family, 0, 0, 0]) + nest(1, _tuple(ends[0], ends[2], 6, (40_000, 443)))


@pytest.mark.parametrize("protocol", [1, 17, 58])
def test_what_is_not_tcp_has_nothing_to_end(protocol: int) -> None:
    assert connections.parse(_entry(protocol)).connection is None


@given(st.binary(max_size=200))
def test_whatever_the_kernel_says_is_taken(body: bytes) -> None:
    told = connections.parse(body).connection
    assert told is None or 0 <= told.port <= 65_535


@given(st.binary(max_size=20), st.binary(max_size=20), st.binary(max_size=4))
def test_addresses_and_ports_of_any_length_are_taken(peer: bytes, own: bytes, port: bytes) -> None:
    ends = nest(1, attribute(1, peer), attribute(2, own))
    ports = nest(2, attribute(1, b"\x06"), attribute(2, port), attribute(3, port))
    told = connections.parse(bytes(4) + nest(2, ends, ports)).connection
    assert (told is None) is not (len(port) == 2 and len(peer) == len(own) and len(peer) in (4, 16))


def _sums_up(data: bytes) -> bool:
    """As a receiver looks at a checksum: the words and it make all ones."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total >> 16) + (total & 0xFFFF)
    return total == 0xFFFF


@given(st.ip_addresses(v=4), _PORTS, st.ip_addresses(v=4), _PORTS)
def test_a_reset_of_ipv4(own: object, port: int, peer: object, peer_port: int) -> None:
    one = Connection(own, port, peer, peer_port)  # type: ignore[arg-type]
    packet = connections.reset(one)
    head, segment = packet[:20], packet[20:]
    assert (head[0], head[9], head[12:16], head[16:]) == (0x45, 6, one.own.packed, one.peer.packed)
    assert struct.unpack(">HH", segment[:4]) == (port, peer_port)
    assert (segment[12] >> 4, segment[13]) == (5, 4)
    assert _sums_up(head[12:] + struct.pack(">HH", 6, len(segment)) + segment)


@given(st.ip_addresses(v=6), _PORTS, st.ip_addresses(v=6), _PORTS)
def test_a_reset_of_ipv6(own: object, port: int, peer: object, peer_port: int) -> None:
    one = Connection(own, port, peer, peer_port)  # type: ignore[arg-type]
    packet = connections.reset(one)
    head, segment = packet[:40], packet[40:]
    assert (head[0] >> 4, head[4:6], head[6]) == (6, struct.pack(">H", len(segment)), 6)
    assert (head[8:24], head[24:]) == (one.own.packed, one.peer.packed)
    assert struct.unpack(">HH", segment[:4]) == (port, peer_port)
    assert _sums_up(head[8:] + struct.pack(">HH", 6, len(segment)) + segment)


class Sender:
    """A socket that some addresses cannot be reached by."""

    def __init__(self, lost: str) -> None:
        self.lost, self.sent = lost, list[str]()

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def sendto(self, packet: bytes, address: tuple[str, int]) -> None:
        if address[0] == self.lost:
            raise OSError(errno.ENETUNREACH, "Network is unreachable")
        self.sent.append(address[0])


def test_one_that_cannot_be_reached_keeps_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a family that nothing is of is not asked for: a kernel may not have it."""
    sender, asked = Sender("11.22.33.44"), []

    def raw(family: socket.AddressFamily) -> Sender:
        asked.append(family)
        return sender

    monkeypatch.setattr(connections, "_raw", raw)
    monkeypatch.setattr(connections, "_PAUSE", 0)
    peers = [ip_address(int(ip_address("11.22.33.0")) + number) for number in range(250)]
    connections.end([Connection(_OWN, 50_000, peer, 443) for peer in peers] + [None])
    assert sender.lost in map(str, peers)
    assert asked == [socket.AF_INET]
    assert sender.sent == [str(one) for one in peers if str(one) != sender.lost]


_OWN = ip_address("11.7.7.7")
_INSIDE, _FAR, _OTHER = ip_address("10.1.2.3"), ip_address("11.22.33.44"), ip_address("11.22.33.45")
_PUBLIC = Policy("public")
_GRANTED = Policy("public", granted=(ip_network("10.1.2.0/24"),))


@pytest.mark.parametrize(
    ("earlier", "now", "address", "port", "keeps"),
    [
        (_PUBLIC, OFF, _FAR, 443, False),
        (_PUBLIC, _PUBLIC, _FAR, 443, True),
        (_PUBLIC, Policy("public", deny=(ip_network("11.22.33.44/32"),)), _FAR, 443, False),
        (_PUBLIC, Policy("public", deny=(ip_network("11.22.33.44/32"),)), _OTHER, 443, True),
        (_PUBLIC, Policy("public", ports=((443, 443), (8000, 8099))), _FAR, 8099, True),
        (_PUBLIC, Policy("public", ports=((443, 443), (8000, 8099))), _FAR, 80, False),
        (_PUBLIC, Policy("public", refused=("bad.example",)), _FAR, 53, False),
        (_PUBLIC, Policy("public", refused=("bad.example",)), _FAR, 443, True),
        (_PUBLIC, Policy("allowlist", allow=(ip_network("11.22.33.44/32"),)), _FAR, 443, True),
        (_PUBLIC, Policy("allowlist", allow=(ip_network("11.22.33.44/32"),)), _OTHER, 443, False),
        (_PUBLIC, Policy("allowlist", names=("far.example",)), _FAR, 443, False),  # to be asked for again
        (_GRANTED, _GRANTED, _INSIDE, 80, True),
        (_GRANTED, _PUBLIC, _INSIDE, 80, False),
        (_GRANTED, Policy("allowlist", allow=(ip_network("10.0.0.0/8"),)), _INSIDE, 80, False),
    ],
)  # fmt: skip
def test_what_goes_on_under_a_new_policy(
    earlier: Policy, now: Policy, address: object, port: int, keeps: bool
) -> None:
    assert now.keeps(address, port, earlier) is keeps  # type: ignore[arg-type]
