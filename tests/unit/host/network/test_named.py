"""What is kept of addresses that names have opened, against a model of the kernel's set."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nsbox.host.network import links, nft
from nsbox.host.network.named import MOST, Named
from nsbox.host.network.netlink import Request

_ADDRESSES = st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16))


class Kernel:
    """Sets of which anything may have run out of time."""

    def __init__(self) -> None:
        self.there: set[bytes] = set()

    def apply(self, requests: list[Request], keys: dict[bytes, bytes]) -> None:
        for one in requests:
            (address,) = [address for address, key in keys.items() if key in one.body]
            if one.kind & 0xFF == nft._DELELEM:
                self.there.remove(address)  # KeyError, as the kernel says ENOENT
            else:
                self.there.add(address)


@given(st.lists(st.one_of(_ADDRESSES, st.just(b"policy"), st.just(b"time")), max_size=30))
def test_what_is_open_ends_with_the_policy(steps: list[bytes]) -> None:
    named, kernel = Named(7), Kernel()
    prefix = nft.native(links.index(7))
    # A shorter key must not be found in a longer one: with what stands around it, it is not.
    keys = {one: nft.attribute(1, prefix + one) for one in steps}
    for step in steps:
        if step == b"policy":
            kernel.apply(named.shut(), keys)
            named.forget()
            assert kernel.there == set()
        elif step == b"time":
            kernel.there.clear()
        else:
            kernel.apply(named.open(step, 5), keys)
            assert step in kernel.there


def test_so_many_and_no_more() -> None:
    named, kernel = Named(1), Kernel()
    prefix = nft.native(links.index(1))
    every = [number.to_bytes(4, "big") for number in range(MOST + 50)]
    for one in every:
        previous = every[max(0, every.index(one) - MOST)]
        known = {one: prefix + one, previous: prefix + previous}
        kernel.apply(named.open(one, 5), known)
    assert kernel.there == set(every[-MOST:])
