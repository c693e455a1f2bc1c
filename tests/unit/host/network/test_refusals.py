"""The log of what was refused: bounded, and hostile packets in it harm nothing."""

from __future__ import annotations

import struct
from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from nsbox.host.network import refusals
from nsbox.host.network.links import FIRST_INDEX
from nsbox.host.network.netlink import attribute

_KIND = refusals.SUBSYSTEM << 8


def told(packet: bytes, link: int = FIRST_INDEX + 5) -> bytes:
    return (
        bytes(4) + attribute(10, b"inside\0") + attribute(4, struct.pack(">I", link)) + attribute(9, packet)
    )


def tcp4(address: str, port: int) -> bytes:
    head = b"\x45" + bytes(8) + b"\x06" + bytes(6) + ip_address(address).packed
    return head + b"\0\1" + port.to_bytes(2, "big") + bytes(12)


def test_a_packet() -> None:
    found = refusals.parse(_KIND, told(tcp4("169.254.169.254", 80)))
    assert found == refusals.Refusal(5, "inside", "tcp", ip_address("169.254.169.254").packed, 80)


def test_packets_of_other_links_are_not_ours() -> None:
    assert refusals.parse(_KIND, told(tcp4("1.2.3.4", 80), link=2)) is None
    assert refusals.parse(_KIND + 1, told(tcp4("1.2.3.4", 80))) is None


@given(st.binary(max_size=200))
def test_any_packet_is_read_or_passed_over(packet: bytes) -> None:
    refusals.parse(_KIND, told(packet))
    refusals.parse(_KIND, packet)


def test_it_is_bounded_and_knows_names() -> None:
    log = refusals.Log()
    for number in range(2_000):
        log.learn(number.to_bytes(4, "big"), f"n{number}.example")
        log.packet(refusals.Refusal(5, "inside", "tcp", number.to_bytes(4, "big"), 80))
    rows = list(log.rows())
    assert len(rows) == 256
    assert rows[-1][3:] == ("0.0.7.207", 80, "n1999.example")
    assert len(log._names) == 512
