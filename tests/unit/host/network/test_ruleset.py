"""Ranges of the firewall, which must neither overlap nor touch to be one interval set."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from nsbox.host.network import outside, policy, ruleset

_NETWORKS = st.builds(
    lambda address, length: ip_network((address, length), strict=False),
    st.ip_addresses(v=4).map(int),
    st.integers(0, 32),
)


@given(st.lists(_NETWORKS, max_size=12))
def test_joined_ranges_hold_what_the_networks_hold(networks: list[object]) -> None:
    ranges = ruleset.ranges(networks)  # type: ignore[arg-type]
    for (_, end), (start, _) in pairwise(ranges):
        assert end
        assert end < start
    for one in networks:
        for address in (one.network_address, one.broadcast_address):  # type: ignore[attr-defined]
            assert any(start <= address.packed and (not end or address.packed < end) for start, end in ranges)


def test_what_is_inside_and_what_is_not() -> None:
    def inside(text: str) -> bool:
        address = ip_address(text)
        return any(address in one for one in outside.INSIDE if one.version == address.version)

    for one in (
        "127.0.0.1", "10.0.0.1", "169.254.169.254", "172.31.0.1", "192.168.0.1", "100.64.0.1", "0.0.0.0",
        "224.0.0.1", "255.255.255.255", "192.0.0.9", "198.19.0.1", "192.88.99.1", "::1", "::", "fe80::1",
        "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1",
        "64:ff9b:1::1", "2002:7f00:1::1", "2001::1", "100::1", "4000::1", "a000::1",
    ):  # fmt: skip
        assert inside(one), one
    for one in (
        "1.1.1.1",
        "93.184.216.34",
        "172.32.0.1",
        "2606:4700::1111",
        "2a00:1450::1",
        "2001:4860:4860::8888",
    ):
        assert not inside(one), one


def test_what_a_policy_may_resolve() -> None:
    listed = policy.Policy("allowlist", names=("*.example.com",), refused=("bad.example.com",))
    assert listed.may_resolve("a.example.com")
    assert not listed.may_resolve("bad.example.com")
    assert not listed.may_resolve("example.com")
    assert not policy.OFF.may_resolve("a.example.com")
    assert policy.Policy("public", refused=("x.example",)).may_resolve("y.example")
    assert not policy.Policy("public", refused=("x.example",)).may_resolve("x.example")
