"""What all connections of the proxy share: where requests go, who is believed, and how much is allowed."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple, Protocol

import trio

from nsbox.model.ports import Port
from nsbox.plan.edge import Network
from nsbox.plan.previews import Form
from nsbox.plan.shares import Shares
from nsbox.proxy.relay import Held
from nsbox.service.ports import Found


class Ports(Protocol):
    """What the proxy asks of ``service.ports``."""

    changed: trio.Event

    def find(self, sandbox_id: str, number: int) -> Found: ...

    def admits(self, token: str, sandbox_id: str, port: Port) -> int | None: ...

    async def wake(self, sandbox_id: str, number: int) -> Found: ...

    async def dial(self, sandbox_id: str, number: int) -> socket.socket: ...


class Bounds(NamedTuple):
    """How long and how much, in seconds and connections."""

    head_s: float
    keep_alive_s: float
    idle_s: float
    connections: int
    sandbox_connections: int
    grace_s: float
    #: How long a reader may take for what is held for it (256 KiB at most), and a client for hanging up.
    stall_s: float = 60
    linger_s: float = 2
    #: Of one client, by its address.
    address_connections: int = 1_000


class Edge:
    """The proxy's surroundings. ``now`` is trio's clock as of half a second ago at most: deadlines here are
    of seconds, and asking the clock for every piece of a body is not free."""

    def __init__(
        self,
        ports: Ports,
        form: Form,
        trusted: tuple[Network, ...],
        is_key: Callable[[str], bool],
        bounds: Bounds,
    ) -> None:
        self.ports, self.form, self.trusted = ports, form, trusted
        self.is_key, self.bounds = is_key, bounds
        self.held = Held()
        self.now = trio.current_time()
        self.shares = Shares(bounds.address_connections, trusted)
        #: Connections by sandbox.
        self.counts: Counter[str] = Counter()

    def enter(self, sandbox_id: str) -> bool:
        """Count a connection to a sandbox; whether there is room."""
        if self.counts[sandbox_id] >= self.bounds.sandbox_connections:
            return False
        self.counts[sandbox_id] += 1
        return True

    def visited(self, sandbox_id: str) -> bool:
        """Whether a connection to a sandbox is open."""
        return self.counts.get(sandbox_id, 0) > 0

    def leave(self, sandbox_id: str) -> None:
        """The connection is gone."""
        self.counts[sandbox_id] -= 1
        if not self.counts[sandbox_id]:
            del self.counts[sandbox_id]
