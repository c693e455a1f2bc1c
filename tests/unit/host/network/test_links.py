"""What is asked of the kernel for a link, read back from the encoded messages."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from nsbox.host.network import links
from nsbox.host.network.netlink import attributes

_PLAN = links.plan(("10.209.0.0/16", "fd6e:7362:6f78::/64"))
_IFINFO = 16
_MTU, _LINKINFO, _DATA, _PEER, _TX_QUEUES, _RX_QUEUES = 4, 18, 2, 1, 31, 32


def _ends() -> Iterator[dict[int, bytes]]:
    """The attributes of the outer end, and of its peer."""
    made = links.outer_requests(7, 99, _PLAN.addresses(7))[0]
    outer = dict(attributes(made.body, _IFINFO))
    yield outer
    data = dict(attributes(dict(attributes(outer[_LINKINFO]))[_DATA]))
    yield dict(attributes(data[_PEER], _IFINFO))


def test_both_ends_have_one_queue_of_each_kind() -> None:
    """Left to itself the kernel allocates as many as the host may have processors, for every sandbox."""
    for end in _ends():
        assert [struct.unpack("=I", end[kind]) for kind in (_TX_QUEUES, _RX_QUEUES)] == [(1,), (1,)]


def test_both_ends_have_the_same_mtu() -> None:
    outer, inner = _ends()
    assert outer[_MTU] == inner[_MTU]


def test_addresses_of_slots() -> None:
    assert [str(one) for one in _PLAN.gateways] == ["10.209.0.1", "fd6e:7362:6f78::1"]
    assert [str(one) for one in _PLAN.addresses(300)] == ["10.209.1.46", "fd6e:7362:6f78::12e"]
