"""Bytes from one socket to another, at the pace of the slower.

One buffer serves all connections: it is received into and sent from with no wait between, and only what the
other side does not take at once is copied. So an idle connection holds no memory, and a large body goes
through in large pieces. Every call gives MSG_DONTWAIT (see ``host.dialled``), which is also why splice(2) is
not used: on the socket's side it waits or not by O_NONBLOCK alone, which a sandbox's init can clear.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

import trio

from nsbox.host import dialled
from nsbox.proxy.bodies import Body

#: The most that goes through at once. What a reader does not take of it is held for that reader.
LARGE = 256 * 1024
#: The same for everybody once so much is held for readers that do not read.
SMALL = 8 * 1024
HELD_MOST = 64 * 1024 * 1024
#: How many bytes one connection may move before others get a turn.
_TURN = 2 * 1024 * 1024

_buffer = bytearray(LARGE)
_view = memoryview(_buffer)


class ClosedError(Exception):
    """The connection ``line`` is gone."""

    def __init__(self, line: Line, detail: str) -> None:
        super().__init__(detail)
        self.line = line


class Held:
    """How much is held for slow readers, of all connections."""

    def __init__(self) -> None:
        self.bytes = 0

    @property
    def room(self) -> int:
        """How much may be received at once."""
        return LARGE if self.bytes < HELD_MOST else SMALL


class Line:
    """One end of a relay. ``blocked`` is called with True when it takes no more, with False when it does
    again; ``moved`` whenever something came or went."""

    def __init__(
        self, sock: socket.socket, held: Held, moved: Callable[[], None], blocked: Callable[[bool], None]
    ) -> None:
        self._sock, self._fd, self._held = sock, sock.fileno(), held
        self._moved, self._blocked = moved, blocked
        self.ended = False  # the other side will send no more
        self.finished = False  # we have said that we send no more

    def receive_now(self, most: int = LARGE) -> memoryview | None:
        """What is there, valid until the next wait; empty at the end, None when nothing is there yet.

        Raises ``ClosedError``.
        """
        try:
            size = self._sock.recv_into(_view, min(most, self._held.room), socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError as error:
            raise ClosedError(self, str(error)) from error
        self._moved()
        if not size:
            self.ended = True
        return _view[:size]

    async def receive(self, most: int = LARGE) -> memoryview:
        """The same, waited for."""
        while (data := self.receive_now(most)) is None:
            await self.readable()
        return data

    async def readable(self) -> None:
        """Until something is there. Raises ``ClosedError``."""
        try:
            await trio.lowlevel.wait_readable(self._open_fd())
        except (trio.ClosedResourceError, OSError) as error:
            raise ClosedError(self, "we hung up") from error

    async def send(self, data: memoryview | bytes) -> None:
        """Send all of it. Raises ``ClosedError``."""
        if not (rest := self._send_some(data)):
            return
        pending = memoryview(bytes(rest))
        self._held.bytes += len(pending)
        held = len(pending)
        self._blocked(True)
        try:
            while pending:
                try:
                    await trio.lowlevel.wait_writable(self._open_fd())
                except (trio.ClosedResourceError, OSError) as error:
                    raise ClosedError(self, "we hung up") from error
                pending = memoryview(self._send_some(pending))
        finally:
            self._held.bytes -= held
            self._blocked(False)

    def _send_some(self, data: memoryview | bytes) -> memoryview | bytes:
        """What was not taken."""
        try:
            sent = self._sock.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return data
        except OSError as error:
            raise ClosedError(self, str(error)) from error
        self._moved()
        return data[sent:]

    def _open_fd(self) -> int:
        """Closed by the other task, its number may be another connection's by now."""
        if self._sock.fileno() < 0:
            raise ClosedError(self, "we hung up")
        return self._fd

    def finish(self) -> None:
        """Say that nothing more comes from us; what comes from there is still taken."""
        if not self.finished:
            self.finished = True
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # it is gone: whoever reads finds out

    def close(self) -> None:
        """Hang up; whoever waits is told by ``ClosedError``."""
        dialled.close(self._sock)


async def body(source: Line, sink: Line, until: Body) -> bytes:
    """Relay the rest of a body; what came behind its end.

    ``source.ended`` afterwards without ``until.done``: the sender closed before the end (which is the end, of
    a body without one). Raises ``ClosedError``, ``MalformedError``.
    """
    behind = b""
    turn = 0
    while not until.done:
        data = source.receive_now()
        if data is None:
            turn = 0
            await source.readable()
            continue
        if not data:
            break
        size = len(data)
        used = until.feed(data)
        if used < size:
            behind = bytes(data[used:])
        await sink.send(data[:used])
        turn += used
        if turn >= _TURN:
            turn = 0
            await trio.lowlevel.checkpoint()
    return behind


async def everything(source: Line, sink: Line, begun: bytes = b"") -> None:
    """Relay until the sender ends, and pass the end on: one half of a tunnel."""
    if begun:
        await sink.send(begun)
    turn = 0
    while True:
        data = source.receive_now()
        if data is None:
            turn = 0
            await source.readable()
            continue
        if not data:
            break
        turn += len(data)
        await sink.send(data)
        if turn >= _TURN:
            turn = 0
            await trio.lowlevel.checkpoint()
    sink.finish()
