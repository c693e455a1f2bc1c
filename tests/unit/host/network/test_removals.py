"""Links are removed beside the loop, which hears of it by a descriptor."""

from __future__ import annotations

import errno
import select
import threading

import pytest

from nsbox.host.network import connections, links
from nsbox.host.network.netlink import Netlink
from nsbox.host.network.removals import Removals


def test_nobody_waits_and_everybody_hears(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of one that the kernel refused to remove."""
    go = threading.Event()

    def unplug(_: Netlink, slot: int) -> None:
        assert go.wait(30)
        if slot == 8:
            raise OSError(errno.EBUSY, "busy")

    monkeypatch.setattr(links, "unplug", unplug)
    ended: list[int] = []
    monkeypatch.setattr(Removals, "_end_connections", lambda _, link: ended.append(link))
    removals = Removals()
    for slot in (7, 8, 9):
        removals.remove(slot)
    assert removals.finished() == []
    go.set()
    found = []
    while len(found) < 3:
        assert select.select([removals.fileno()], [], [], 30)[0]
        found += removals.finished()
    assert [one.slot for one in found] == [7, 8, 9]
    assert [one.error and one.error.errno for one in found] == [None, errno.EBUSY, None]
    assert select.select([removals.fileno()], [], [], 0)[0] == []
    assert ended == [links.index(7), links.index(9)]  # the other may still be used


def test_a_slot_is_free_also_where_its_connections_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a route nothing can be told to pasta; addresses must not run out for that."""

    def refuse(*_: object) -> list[connections.Entry]:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(links, "unplug", lambda *_: None)
    monkeypatch.setattr(connections, "known", refuse)
    removals = Removals()
    removals.remove(7)
    assert select.select([removals.fileno()], [], [], 30)[0]
    assert [(one.slot, one.error) for one in removals.finished()] == [(7, None)]
