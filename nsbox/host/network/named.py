"""Addresses that names have opened: which are in the firewall, for which link, and for how long.

The kernel lets each go by itself when its time is over. This knows them besides, for two reasons: they end
with the policy that they were opened under, and with their sandbox, whose link's number somebody else gets;
and one who chooses what a name server answers must not fill the kernel's memory.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from nsbox.host.network import links, nft
from nsbox.host.network.netlink import Request

#: How long an answer's address may be dialled, in seconds, however short it is meant to be kept: programs
#: keep addresses, and connections that are there stay anyway.
_SHORTEST, _LONGEST = 300, 3_600
#: Addresses of one sandbox; the oldest is shut for one more.
MOST: Final = 1_024


class Named:
    """Those of one link. Each method answers the requests that make it so."""

    def __init__(self, slot: int) -> None:
        self._link = nft.native(links.index(slot))
        self._open: OrderedDict[bytes, None] = OrderedDict()

    def open(self, address: bytes, seconds: int) -> list[Request]:
        """Let an address be dialled. Made anew, since a timeout that runs is not changed by adding the same
        once more."""
        self._open[address] = None
        self._open.move_to_end(address)
        over = [self._open.popitem(last=False)[0]] if len(self._open) > MOST else []
        life = 1_000 * min(max(seconds, _SHORTEST), _LONGEST)
        target, element = self._place(address)
        return [
            *self._shut([*over, address]),
            nft.add_elements(target, [element], life),
        ]

    def shut(self) -> list[Request]:
        """Nothing is open any more; ``forget`` when the kernel has done it."""
        return self._shut(self._open)

    def forget(self) -> None:
        self._open.clear()

    def _shut(self, addresses: Iterable[bytes]) -> list[Request]:
        made = []
        for address in addresses:
            target, element = self._place(address)
            # To delete what has had its time is an error that takes the whole batch along, and to add what is
            # there is none.
            made += [nft.add_elements(target, [element], 1_000), nft.delete_element(target, element)]
        return made

    def _place(self, address: bytes) -> tuple[str, bytes]:
        return f"named{4 if len(address) == 4 else 6}", self._link + address
