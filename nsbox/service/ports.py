"""Ports of sandboxes: exposed, listed, taken away, and dialled for the proxy, which dials no others."""

from __future__ import annotations

import errno
import logging
import secrets
import socket
import weakref
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import NamedTuple, Protocol

import trio

from nsbox.host import dialled
from nsbox.host.box import Box, Refusal, Unresponsive
from nsbox.model.errors import Code, HostProblem, Problem
from nsbox.model.lifecycle import Action, State, after
from nsbox.model.ports import Exposed, Link, Port, PortSpec
from nsbox.model.ports import Protocol as Kind
from nsbox.model.sandbox import new_command_id
from nsbox.plan.previews import Form
from nsbox.service import clock
from nsbox.service.links import Links
from nsbox.service.registry import Live, Registry

_log = logging.getLogger(__name__)

#: How long to rest between two looks whether something listens, in seconds: the first, and the longest.
_FIRST_REST, _LONGEST_REST = 0.01, 0.25


class Reach(StrEnum):
    """What a visitor of a port meets."""

    OPEN = "open"
    PAUSED = "paused"
    NO_SANDBOX = "no_sandbox"
    NOT_EXPOSED = "not_exposed"


class Found(NamedTuple):
    """A port as the proxy sees it; ``port`` is there when it is open or its sandbox is paused."""

    reach: Reach
    port: Port | None = None


class Publisher(Protocol):
    """Listens on the host for ports that speak something else than HTTP."""

    def open(self, sandbox_id: str, port: int, wanted: int | None) -> int:
        """Listen on a port of the host, ``wanted`` if that is given; which one it is.

        Idempotent. Raises ``Problem(NO_HOST_PORT)``.
        """
        ...

    def close(self, sandbox_id: str, port: int) -> None:
        """Stop. Idempotent."""
        ...

    def address(self, host_port: int) -> str:
        """Where clients connect, as a URL."""
        ...


class Ports:
    """The ports of all sandboxes. ``changed`` is set when one was taken away or restricted, and then
    replaced: whoever keeps connections looks through them."""

    def __init__(self, registry: Registry, form: Form, links: Links, publisher: Publisher, most: int) -> None:
        self._registry, self._form, self._links = registry, form, links
        self._publisher, self._most = publisher, most
        #: Which family a port answered on last: most servers listen on IPv4, and some on IPv6 only.
        self._families: weakref.WeakKeyDictionary[Box, dict[int, int]] = weakref.WeakKeyDictionary()
        self.changed = trio.Event()

    # ---- for the owner

    async def expose(self, owner: str, sandbox_id: str, wish: PortSpec) -> tuple[Exposed, bool]:
        """Expose a port, or change how it is; whether it is new. Idempotent."""
        live, _ = await self._alive(owner, sandbox_id)
        before = _named(live, wish.port)
        if before is None and len(live.record.ports) >= self._most:
            raise Problem(
                Code.TOO_MANY_PORTS,
                f"{self._most} ports of this sandbox are exposed already",
                remedy="take some away with DELETE, or raise max_ports",
            )
        port = self._made(sandbox_id, wish, before)
        if port != before:
            others = tuple(one for one in live.record.ports if one.port != port.port)
            await self._registry.change(live, ports=tuple(sorted((*others, port), key=lambda one: one.port)))
            if before is not None:
                self._tell()
        listening = None
        if wish.wait_ms is not None:
            listening = await self.listens(owner, sandbox_id, wish.port, wish.wait_ms / 1000)
        return self._view(sandbox_id, port, listening), before is None

    def _made(self, sandbox_id: str, wish: PortSpec, before: Port | None) -> Port:
        host_port = None
        if wish.protocol is Kind.TCP:
            host_port = self._publisher.open(sandbox_id, wish.port, before.host_port if before else None)
        elif before is not None and before.protocol is Kind.TCP:
            self._publisher.close(sandbox_id, wish.port)
        return Port(
            port=wish.port,
            protocol=wish.protocol,
            public=wish.public,
            salt=before.salt if before is not None else secrets.token_hex(8),
            host_port=host_port,
        )

    async def list(self, owner: str, sandbox_id: str) -> list[Exposed]:
        """The exposed ports, by number."""
        _, record_ports = await self._alive(owner, sandbox_id)
        return [self._view(sandbox_id, port) for port in record_ports]

    async def remove(self, owner: str, sandbox_id: str, number: int) -> None:
        """Take a port away; its connections are closed and its links end."""
        live, _ = await self._alive(owner, sandbox_id)
        port = _named(live, number)
        if port is None:
            raise _not_exposed(number)
        if port.protocol is Kind.TCP:
            self._publisher.close(sandbox_id, number)
        await self._registry.change(live, ports=tuple(one for one in live.record.ports if one.port != number))
        self._tell()

    async def link(self, owner: str, sandbox_id: str, number: int, seconds: int) -> Link:
        """A signed address of a port. For a public one it is of no use, and harmless."""
        live, _ = await self._alive(owner, sandbox_id)
        port = _named(live, number)
        if port is None:
            raise _not_exposed(number)
        if port.protocol is not Kind.HTTP:
            raise Problem(Code.INVALID_FIELD, "only a port that speaks HTTP has links", field="port")
        expires_at = int(clock.wall()) + seconds
        token = self._links.sign(sandbox_id, port, expires_at)
        return Link(
            url=f"{self._form.url(sandbox_id, number)}?{LINK_PARAMETER}={token}", expires_at=expires_at
        )

    async def _alive(self, owner: str, sandbox_id: str) -> tuple[Live, tuple[Port, ...]]:
        record = await self._registry.record(owner, sandbox_id)
        after(record.state, Action.PORTS)
        live = self._registry.find(sandbox_id)
        if live is None:
            raise Problem(Code.SANDBOX_GONE, "the sandbox is no longer there", remedy="create a new sandbox")
        return live, record.ports

    def _view(self, sandbox_id: str, port: Port, listening: bool | None = None) -> Exposed:
        if port.host_port is not None:
            url = self._publisher.address(port.host_port)
        else:
            url = self._form.url(sandbox_id, port.port)
        return Exposed(port=port, url=url, listening=listening)

    async def listens(self, owner: str, sandbox_id: str, number: int, patience: float) -> bool:
        """Until something listens, or the time is over. Asking is connecting, and hanging up at once."""
        rest = _FIRST_REST
        deadline = trio.current_time() + patience
        while True:
            # Looked up each time: the sandbox may end meanwhile, which is then the answer.
            _, box, _ = await self._registry.usable(owner, sandbox_id, Action.EXEC)
            try:
                dialled.close(await self._dial(box, number))
                return True
            except dialled.NotListening:
                pass
            except Unresponsive as error:
                if box.closed:
                    continue
                raise Problem(
                    Code.SANDBOX_UNRESPONSIVE, f"the sandbox does not answer: {error}", remedy="try again"
                ) from error
            left = deadline - trio.current_time()
            if left <= 0:
                return False
            await trio.sleep(min(rest, left))
            rest = min(rest * 2, _LONGEST_REST)

    def _tell(self) -> None:
        told, self.changed = self.changed, trio.Event()
        told.set()

    # ---- for the proxy

    def find(self, sandbox_id: str, number: int) -> Found:
        """What a visitor meets now. Nothing is awaited: it is asked for every request."""
        live = self._registry.find(sandbox_id)
        if live is None or live.record.state not in (State.RUNNING, State.PAUSED):
            return Found(Reach.NO_SANDBOX)
        port = _named(live, number)
        if port is None:
            return Found(Reach.NOT_EXPOSED)
        return Found(Reach.OPEN if live.record.state is State.RUNNING else Reach.PAUSED, port)

    def admits(self, token: str, sandbox_id: str, port: Port) -> int | None:
        """When the token of a link ends, if it opens this port."""
        return self._links.expiry(token, sandbox_id, port)

    async def wake(self, sandbox_id: str, number: int) -> Found:
        """What a visitor meets who may come in: a paused sandbox is resumed for him where it may be.
        Raises ``Unresponsive``."""
        live = self._registry.find(sandbox_id)
        if live is not None:
            try:
                await self._registry.awake(live)
            except (Problem, HostProblem) as problem:
                raise Unresponsive(problem.detail) from problem
        return self.find(sandbox_id, number)

    async def dial(self, sandbox_id: str, number: int) -> socket.socket:
        """A connection to an exposed port. Raises ``dialled.NotListening``, ``Unresponsive``."""
        live = self._registry.find(sandbox_id)
        if live is None or live.box is None or _named(live, number) is None:
            raise Unresponsive("the sandbox is gone")
        return await self._dial(live.box, number)

    async def _dial(self, box: Box, number: int) -> socket.socket:
        families = self._families.setdefault(box, {})
        first = families.get(number, 4)
        for family in (first, 10 - first):
            try:
                sock = await _tried(lambda family=family: box.dial(new_command_id(), family, number))  # type: ignore[misc]
            except dialled.NotListening:
                continue
            families[number] = family
            return sock
        families.pop(number, None)
        raise dialled.NotListening

    # ---- the daemon's start

    def republish(self) -> None:
        """Listen again on the host for what the api process before had published."""
        for live in self._registry.all():
            for port in live.record.ports:
                if port.protocol is Kind.TCP:
                    try:
                        self._publisher.open(live.record.id, port.port, port.host_port)
                    except Problem as problem:  # somebody else has it now: the sandbox itself is well
                        _log.warning("port %s of %s: %s", port.port, live.record.id, problem.detail)


#: The query parameter of a link.
LINK_PARAMETER = "nsbox_link"

#: What connect(2) says at once where nothing can listen, e.g. without IPv6.
_NOBODY = frozenset(
    {errno.ECONNREFUSED, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.ENETUNREACH, errno.EHOSTUNREACH}
)


async def _tried(work: Callable[[], Awaitable[socket.socket]]) -> socket.socket:
    try:
        return await work()
    except Refusal as refusal:
        if refusal.errno in _NOBODY:
            raise dialled.NotListening from refusal
        raise Unresponsive(str(refusal)) from refusal


def _named(live: Live, number: int) -> Port | None:
    return next((one for one in live.record.ports if one.port == number), None)


def _not_exposed(number: int) -> Problem:
    return Problem(
        Code.PORT_NOT_EXPOSED,
        f"port {number} of the sandbox is not exposed",
        remedy=f'expose it with POST …/ports {{"port": {number}}}',
    )
