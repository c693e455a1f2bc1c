from __future__ import annotations

from nsbox.plan.edge import trusted
from nsbox.plan.shares import Shares


def test_a_client_has_its_share_and_takes_nobody_elses() -> None:
    shares = Shares(2, ())
    one, other = shares.name("198.51.100.7"), shares.name("198.51.100.8")
    for _ in range(2):
        assert not shares.full(one)
        shares.enter(one)
    assert shares.full(one)
    assert not shares.full(other)
    shares.leave(one)
    assert not shares.full(one)
    shares.leave(one)
    assert len(shares) == 0


def test_a_network_of_ipv6_is_one_client() -> None:
    shares = Shares(1, ())
    assert shares.name("2001:db8::1") == shares.name("2001:db8::2") != shares.name("2001:db8:0:1::1")
    assert shares.name("::ffff:198.51.100.7") == shares.name("198.51.100.7")


def test_who_speaks_for_many_is_not_counted() -> None:
    shares = Shares(1, trusted("10.0.0.0/8"))
    for address in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "10.1.2.3", "", "/run/x.sock"):
        assert shares.name(address) is None
        shares.enter(None)
        assert not shares.full(None)
    assert shares.name("11.1.2.3") is not None
