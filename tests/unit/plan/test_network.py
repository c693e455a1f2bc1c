"""Policies as clients say them: what is taken, what is refused and which member is at fault."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbox.host.network import policy as inner
from nsbox.model.network import NetworkMode, NetworkPolicy
from nsbox.plan import network
from nsbox.plan.network import BadPolicyError
from nsbox.settings import NetworkUse, Settings

ALLOWLIST, PUBLIC, OFF = NetworkMode.ALLOWLIST, NetworkMode.PUBLIC, NetworkMode.OFF


def wish(**members: object) -> NetworkPolicy:
    return NetworkPolicy(**members)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        (wish(mode=OFF, allow=("1.2.3.4",)), "allow"),
        (wish(mode=OFF, ports=(80,)), "ports"),
        (wish(mode=PUBLIC, allow=("pypi.org",)), "allow[0]"),
        (wish(mode=PUBLIC, allow=("10.1.0.0/16", "10.0.0.0/8")), "allow[1]"),
        (wish(mode=ALLOWLIST, allow=("1.2.3.4", "no name")), "allow[1]"),
        (wish(deny=("http://x",)), "deny[0]"),
        (wish(ports=(0,)), "ports[0]"),
        (wish(ports=(65_536,)), "ports[0]"),
        (wish(ports=("20-10",)), "ports[0]"),
        (wish(ports=(80, "a-b")), "ports[1]"),
        (wish(ports=("-1",)), "ports[0]"),
        (wish(ports=("٣",)), "ports[0]"),
        (wish(deny=tuple(["1.2.3.4"] * 129)), "deny"),
    ],
)
def test_what_cannot_be_names_the_member(policy: NetworkPolicy, field: str) -> None:
    with pytest.raises(BadPolicyError) as caught:
        network.checked(policy, ("10.1.0.0/16",))
    assert caught.value.field == field


def test_names_and_networks_are_brought_to_one_form() -> None:
    found = network.checked(
        wish(mode=ALLOWLIST, allow=("PyPI.org.", "1.2.3.4/24", "2001:DB8::1"), ports=("80-90", 443)), ()
    )
    assert found.allow == ("pypi.org", "1.2.3.0/24", "2001:db8::1")
    assert found.ports == ("80-90", 443)


def test_only_what_the_operator_opened_is_granted() -> None:
    policy = network.checked(
        wish(mode=ALLOWLIST, allow=("10.1.2.0/24", "10.0.0.0/8", "8.8.8.8")), ("10.1.0.0/16",)
    )
    told = json.loads(network.told(policy, ("10.1.0.0/16",)))
    assert told["granted"] == ["10.1.2.0/24"]
    assert told["allow"] == ["10.0.0.0/8", "8.8.8.8/32"]
    assert json.loads(network.told(policy, ()))["granted"] == []


@given(
    st.lists(st.ip_addresses().map(str), max_size=4),
    st.lists(st.sampled_from(["example.com", "*.example.org", "a.b"]), max_size=4),
    st.lists(st.integers(1, 65_535), max_size=4),
)
def test_what_is_told_is_what_the_other_side_reads(
    addresses: list[str], names: list[str], ports: list[int]
) -> None:
    policy = network.checked(
        wish(mode=ALLOWLIST, allow=(*addresses, *names), deny=tuple(names), ports=tuple(ports)), ()
    )
    read = inner.parse(network.told(policy, ()))
    assert [str(one.network_address) for one in read.allow] == [str(one) for one in addresses]
    assert read.names == read.refused == tuple(names)
    assert read.ports == tuple((one, one) for one in ports)


def test_standing_policies_have_no_chain_of_their_own() -> None:
    assert inner.parse(network.told(wish(), ())).standing
    assert inner.parse(network.told(wish(mode=OFF), ())).standing
    assert not inner.parse(network.told(wish(deny=("1.2.3.4",)), ())).standing


def test_options_are_empty_where_there_is_to_be_no_network() -> None:
    assert network.options(Settings(network=NetworkUse.OFF)) == ""
    assert json.loads(network.options(Settings()))["connections"] == 1_024
