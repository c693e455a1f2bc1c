"""Blocking send and receive of messages on a SEQPACKET socket, for the single-threaded processes.

``api`` has its own, asynchronous ends in ``host``. Descriptors received with a message that turns out to be
wrong are closed, so that a hostile peer cannot fill the table.
"""

import array
import os
import socket
from collections.abc import Sequence

from nsbox.kernel.rawsocket import RawSocket
from nsbox.wire.framing import (
    ANCILLARY_ROOM,
    MAX_PACKET,
    SEND_BUFFER,
    WireError,
    decode,
    descriptors_in,
    encode,
)
from nsbox.wire.messages import Message

_buffer = bytearray(MAX_PACKET)  # untouched pages of it cost nothing


def prepare(sock: RawSocket) -> None:
    """Let the largest packet fit."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)


def send(sock: RawSocket, message: Message, descriptors: Sequence[int] = ()) -> None:
    """Send ``message`` with ``descriptors``, which stay open here. Raises ``OSError``, ``PacketTooLarge``."""
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    sock.sendmsg([encode(message)], ancillary)


def receive(sock: RawSocket, expected: frozenset[type], how: int = 0) -> tuple[Message, list[int]] | None:
    """The next message and its descriptors (close-on-exec), or None when the peer has hung up.

    ``how``: further flags of recv(2). Raises ``WireError`` for a message that is not one of ``expected``,
    ``BlockingIOError`` on a non-blocking socket with nothing to read.
    """
    size, ancillary, flags, _ = sock.recvmsg_into([_buffer], ANCILLARY_ROOM, socket.MSG_CMSG_CLOEXEC | how)
    descriptors = descriptors_in(ancillary)
    if not size and not descriptors:
        return None
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise WireError("a packet larger than any message")
        return decode(memoryview(_buffer)[:size], expected), descriptors
    except WireError:
        close_all(descriptors)
        raise


def receive_alive(sock: RawSocket, expected: frozenset[type]) -> tuple[Message, list[int]] | None:
    """``receive``, for a process that may be killed while it waits: who asked can tell by ECONNRESET, which
    unix(7) gives for what was left unread, that nothing of it was done.

    Looked at first, taken second. A process that was waiting when it was killed is woken by the packet as
    well as by the signal, and the kernel may finish its recvmsg(2) before it ends it: the packet would be
    gone and nobody would have acted on it. To a second system call it does not get.
    """
    received = receive(sock, expected, socket.MSG_PEEK)
    if received is not None:
        sock.recv(1)
    return received


def close_all(descriptors: Sequence[int]) -> None:
    """Close every one of ``descriptors``."""
    for descriptor in descriptors:
        os.close(descriptor)
