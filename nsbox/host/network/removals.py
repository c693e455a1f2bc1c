"""Links that are being removed, and their connections with them, by a thread.

The kernel takes 11 to 36 ms for each link, nearly all of it waiting for readers of the device to be gone.
Nobody waits for that itself; but a policy that is set behind it in the same loop would, and with it a create
that follows a kill.
"""

import os
import queue
import sys
import threading
from collections import deque
from typing import NamedTuple

from nsbox.host.network import connections, links
from nsbox.host.network.netlink import NETLINK_NETFILTER, NETLINK_ROUTE, Netlink


class Removed(NamedTuple):
    """A slot whose link is gone; or is not, and why."""

    slot: int
    error: OSError | None


class Removals:
    """Made in the network namespace; the thread has sockets there and touches nothing else."""

    def __init__(self) -> None:
        self._routes = Netlink(NETLINK_ROUTE)
        self._tracker = Netlink(NETLINK_NETFILTER)
        self._wanted: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._done: deque[Removed] = deque()
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        threading.Thread(target=self._work, name="removals", daemon=True).start()

    def fileno(self) -> int:
        """Can be read when there is something in ``finished``."""
        return self._event

    def remove(self, slot: int) -> None:
        """``finished`` says when it is."""
        self._wanted.put(slot)

    def finished(self) -> list[Removed]:
        """What has been removed since this was last asked."""
        try:
            os.eventfd_read(self._event)
        except BlockingIOError:
            return []
        return [self._done.popleft() for _ in range(len(self._done))]

    def _work(self) -> None:
        while True:
            slot = self._wanted.get()
            error = None
            try:
                links.unplug(self._routes, slot)
            except OSError as failed:
                error = failed
            else:
                self._end_connections(links.index(slot))
            self._done.append(Removed(slot, error))
            os.eventfd_write(self._event, 1)

    def _end_connections(self, link: int) -> None:
        """Ended before they are forgotten: a port is nobody else's until pasta has let go of it. The slot is
        free also where this fails."""
        try:
            connections.end(one.connection for one in connections.known(self._tracker, link))
            connections.forget(self._tracker, link)
        except OSError as error:
            print(f"nsbox network: connections of {link}: {error}", file=sys.stderr, flush=True)
