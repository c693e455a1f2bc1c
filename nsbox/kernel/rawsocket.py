"""Sockets without the class that Python's ``socket`` module puts around them.

That class turns families and types into enum members whenever it is made or asked, in Python code. An init
pays for each page that running code touches, and these were many. The methods are the same.
"""

import _socket

RawSocket = _socket.socket


def pair() -> tuple[RawSocket, RawSocket]:
    """Two connected SEQPACKET sockets, close-on-exec."""
    return _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)


def adopt(descriptor: int) -> RawSocket:
    """The socket that a descriptor is."""
    return RawSocket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, descriptor)


def accept(listener: RawSocket) -> RawSocket:
    """The next connection, close-on-exec."""
    return adopt(listener._accept()[0])  # type: ignore[attr-defined]  # typeshed leaves it out
