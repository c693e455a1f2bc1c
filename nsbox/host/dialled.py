"""A socket to a sandbox's port, as init sent it: seen to be what was asked for before a byte goes through.

init may have been taken over and may keep a duplicate. All that is checked once can change only where it is
harmless; what can change and matters is never relied on:

- O_NONBLOCK is a property of the open file description (fcntl(2)): every call on such a socket gives
  MSG_DONTWAIT.
- SO_LINGER makes close(2) wait, even on a non-blocking socket: see ``close`` and ``closing``.
"""

import errno
import os
import socket
import struct

import trio

from nsbox.host.closing import close_all, promptly

#: How long a listener may take to accept, in seconds. On loopback it does at once or its backlog is full; the
#: kernel then tries again after one second, and after three.
PATIENCE = 5.0

_FAMILIES = {4: (socket.AF_INET, "127.0.0.1"), 6: (socket.AF_INET6, "::1")}
_NO_LINGER = struct.pack("ii", 0, 0)


class NotListening(Exception):
    """Nothing listens on the port."""


class Impostor(Exception):
    """Not the socket that was asked for: only an init that was tampered with sends that."""


async def connected(descriptor: int, family: int, port: int) -> socket.socket:
    """The connected socket; ``descriptor`` is owned from here on, whatever happens.

    Raises ``NotListening``, ``Impostor``, and ``trio.TooSlowError`` when the listener's backlog stays full.
    """
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        close_all([descriptor])
        raise Impostor("not a socket") from error
    try:
        kind, host = _FAMILIES[family]
        if (sock.family, sock.type, sock.proto) != (kind, socket.SOCK_STREAM, socket.IPPROTO_TCP):
            raise Impostor("not a TCP socket")
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise Impostor("a socket that listens")
        if not _is_connected(sock, host, port):
            with trio.fail_after(PATIENCE):
                await trio.lowlevel.wait_writable(sock.fileno())
            if not _is_connected(sock, host, port):
                raise Impostor("a socket that is not connecting")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        close(sock)
        raise
    return sock


def _is_connected(sock: socket.socket, host: str, port: int) -> bool:
    error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:  # ECONNREFUSED as a rule
        raise NotListening(os.strerror(error))
    try:
        peer = sock.getpeername()
    except OSError as told:
        if told.errno == errno.ENOTCONN:
            return False
        raise Impostor(str(told)) from told
    if peer[:2] != (host, port):
        raise Impostor(f"connected to {peer!r}")
    return True


def close(sock: socket.socket) -> None:
    """Close without waiting, whatever SO_LINGER says: the last holder of a socket would wait in close(2) for
    its data to be taken, and the taker is the sandbox."""
    descriptor = sock.fileno()
    if descriptor < 0:
        return
    trio.lowlevel.notify_closing(descriptor)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    except OSError:
        pass  # no such option on what an impostor sent
    with promptly():  # a duplicate may have set it again
        sock.close()
