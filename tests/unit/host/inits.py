"""The other side of api's sockets, played by tests: an init, a keeper, an agent, well-behaved or not."""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Sequence
from typing import Any

import trio

from nsbox.host.box import Box
from nsbox.inside import channel
from nsbox.wire.framing import ANCILLARY_ROOM, MAX_PACKET, decode, descriptors_in, encode
from nsbox.wire.messages import PROTOCOL_VERSION, Attached, Message
from tests.unit.wire.shapes import EVERYTHING


class Peer:
    """A connection as its other end sees it. What arrives is decoded, whatever it is."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        channel.prepare(sock)
        self.sock = sock

    async def receive(self) -> tuple[Any, list[int]] | None:
        """The next message and its descriptors, or None at the end."""
        while True:
            try:
                data, ancillary, _, _ = self.sock.recvmsg(MAX_PACKET, ANCILLARY_ROOM)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self.sock)
                continue
            except ConnectionResetError:
                return None
            return (decode(data, EVERYTHING), descriptors_in(ancillary)) if data else None

    async def expect(self, kind: type) -> Any:
        """The next message, which must be of a kind; its descriptors are closed."""
        received = await self.receive()
        assert received is not None
        channel.close_all(received[1])
        assert type(received[0]) is kind, received[0]
        return received[0]

    async def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        await self.send_raw(encode(message), descriptors)

    async def send_raw(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        rights = (
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        )
        while True:
            try:
                self.sock.sendmsg([data], rights)
                return
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self.sock)

    def close(self) -> None:
        trio.lowlevel.notify_closing(self.sock)
        self.sock.close()


class RunDir:
    """A folder with listening sockets, as keeper makes it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._listeners: dict[str, socket.socket] = {}

    def listen(self, name: str) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(f"/proc/self/fd/{self.descriptor}/{name}.sock")
        listener.listen(8)
        listener.setblocking(False)
        self._listeners[name] = listener

    def accept(self, name: str) -> Peer:
        """The connection that was made just now."""
        return Peer(self._listeners[name].accept()[0])

    def hush(self) -> None:
        """Listen no more."""
        for listener in self._listeners.values():
            listener.close()

    def close(self) -> None:
        self.hush()
        os.close(self.descriptor)


async def attached(run_dir: RunDir) -> tuple[Box, Peer]:
    """A box, and its init, which has been attached to and had no commands."""
    run_dir.listen("sb_1")
    box = Box(run_dir.descriptor, "sb_1")
    peer = run_dir.accept("sb_1")
    await peer.send(Attached(PROTOCOL_VERSION, 0))
    assert await box.attach() == []
    return box, peer
