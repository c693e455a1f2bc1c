from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbox.api.origin import UNKNOWN, address
from nsbox.plan.addresses import neighbourhood
from nsbox.plan.edge import trusted

TRUSTED = trusted("127.0.0.1, 10.0.0.0/8, fd00::/8")


def scope(peer: object, *told: bytes) -> dict[str, object]:
    return {"client": peer, "headers": [(b"x-forwarded-for", one) for one in told]}


@pytest.mark.parametrize(
    ("peer", "told", "expected"),
    [
        ("198.51.100.7", [b"1.2.3.4"], "198.51.100.7"),  # nobody's proxy
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", [b"1.2.3.4"], "1.2.3.4"),
        ("127.0.0.1", [b"9.9.9.9, 1.2.3.4"], "1.2.3.4"),  # the left one is the client's claim
        ("127.0.0.1", [b"9.9.9.9", b"1.2.3.4"], "1.2.3.4"),
        ("127.0.0.1", [b"1.2.3.4, 10.1.1.1"], "1.2.3.4"),  # two proxies
        ("127.0.0.1", [b"10.1.1.1"], "10.1.1.1"),
        ("127.0.0.1", [b"1.2.3.4, rubbish"], "127.0.0.1"),
        ("127.0.0.1", [b"1.2.3.4, "], "127.0.0.1"),
        ("::ffff:127.0.0.1", [b"1.2.3.4"], "1.2.3.4"),
        ("fd00::1", [b"2001:db8::5"], "2001:db8::5"),
        ("2001:db8::1", [b"1.2.3.4"], "2001:db8::1"),
    ],
)
def test_who_it_was(peer: str, told: list[bytes], expected: str) -> None:
    assert address(scope((peer, 1), *told), TRUSTED) == expected


def test_without_an_address() -> None:
    assert address(scope(None, b"1.2.3.4"), TRUSTED) == UNKNOWN
    assert address(scope(("/run/x.sock", 0)), TRUSTED) == UNKNOWN


def test_a_network_of_ipv6_is_one_client() -> None:
    assert neighbourhood("2001:db8::1") == neighbourhood("2001:db8::ffff") == "2001:db8::/64"
    assert neighbourhood("2001:db8:0:1::1") != neighbourhood("2001:db8::1")
    assert neighbourhood("192.0.2.1") == "192.0.2.1"
    assert neighbourhood(UNKNOWN) == UNKNOWN


@given(st.lists(st.binary(max_size=60), max_size=4))
def test_whatever_is_claimed(told: list[bytes]) -> None:
    assert address(scope(("127.0.0.1", 1), *told), TRUSTED)
    assert address(scope(("198.51.100.7", 1), *told), TRUSTED) == "198.51.100.7"
