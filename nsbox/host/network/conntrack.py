"""Forgetting connections: the kernel's table is told to drop all that have a mark."""

import struct
from typing import Final

from nsbox.host.network.netlink import Netlink, Request, attribute, be32

_SUBSYSTEM: Final = 1
_DELETE: Final = 2
_MARK, _MARK_MASK = 8, 21


def forget(tracker: Netlink, mark: int) -> None:
    """Both families. Raises ``OSError``."""
    body = (
        struct.pack(">BBH", 0, 0, 0) + attribute(_MARK, be32(mark)) + attribute(_MARK_MASK, be32(0xFFFFFFFF))
    )
    tracker.talk([Request(_SUBSYSTEM << 8 | _DELETE, 0, body)], ignored=frozenset({2}))
