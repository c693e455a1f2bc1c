"""Sockets to what listens in the sandbox, for the proxy: made here, since a socket belongs to the network of
the process that makes it. What listens on 127.0.0.1 only is reached, and no route or hole is needed.
"""

import _socket
import errno

from nsbox.kernel.rawsocket import RawSocket

#: As bytes: a str goes through the codec for international names on some versions of Python. Neither is
#: looked up: getaddrinfo(3) would load libraries of the sandbox's own.
_LOOPBACK = {4: (_socket.AF_INET, b"127.0.0.1"), 6: (_socket.AF_INET6, b"::1")}
_KIND = _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC


def begin(family: int, port: int) -> RawSocket:
    """A socket that is connected, or connecting, or refused: whoever gets it finds out.

    Never waits: a listener with a full backlog leaves connect(2) unfinished for minutes, and it belongs to
    the sandbox. Raises ``OSError``.
    """
    known = _LOOPBACK.get(family)
    if known is None or not 0 < port < 65536:
        raise OSError(errno.EINVAL, "no such port")
    sock = RawSocket(known[0], _KIND)
    error = sock.connect_ex((known[1], port))
    if error not in (0, errno.EINPROGRESS):
        sock.close()
        raise OSError(error, "not connected")
    return sock
