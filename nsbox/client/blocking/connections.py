"""HTTP/1.1 for threads, on the standard library.

httpx2 would do, and takes 125 ms to be imported with all it needs; this takes 20, and a command line is
started for every command (docs/adr/0068)."""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
import ssl
import threading
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, TypeVar

from nsbox.client.address import Address
from nsbox.client.call import Request
from nsbox.client.errors import (
    ConnectionFailed,
    ConnectionLost,
    NsboxError,
    TimedOut,
    UnexpectedAnswer,
    Unreachable,
    Untrusted,
)
from nsbox.client.sending import Upload

if TYPE_CHECKING:
    from nsbox.client.websocket import WebSocket

A = TypeVar("A")
T = TypeVar("T")
#: Idle ones that are kept. nsbox closes them after 75 s.
_KEPT = 16
_PIECE = 256 * 1024
#: On a line there is a ping of nsbox's every 20 s.
_SILENCE = 60
#: The largest answer is that of an exec: two outputs of 10 MiB in base64. Lists of files come near.
_MOST = 256 * 1024 * 1024
#: A host that is gone is noticed after a minute, also where an answer may take a day.
_ALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))


class Reply:
    """An answer whose body is still to come. Close it."""

    def __init__(
        self, response: http.client.HTTPResponse, connection: http.client.HTTPConnection, home: Connections
    ) -> None:
        self._response, self._connection, self._home = response, connection, home
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self._over = False

    def __enter__(self) -> Reply:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def pieces(self) -> Generator[bytes, None, None]:
        """The body as it comes. Raises ``ConnectionFailed`` also where it ends too early."""
        with _told(self._home.address):
            while piece := self._response.read1(_PIECE):
                yield piece
            if self._response.length:
                # read1() takes a connection that ends too early for the end of the body.
                raise ConnectionLost(f"{self._response.length} bytes of the answer are missing")
            self._over = True

    def read(self) -> bytes:
        """The whole body."""
        data = bytearray()
        for piece in self.pieces():
            data += piece
            if len(data) > _MOST:
                raise UnexpectedAnswer(f"an answer of more than {_MOST} bytes")
        return bytes(data)

    def close(self) -> None:
        """Whoever has not read to the end gives the connection up: nothing else stops the sender."""
        whole, self._over = self._over and not self._response.will_close, False
        if not whole:
            _shut(self._connection)
        # http.client gives no second answer on a connection before the first one is closed.
        self._response.close()
        if whole:
            self._home.put(self._connection)


class Line:
    """A connection of its own, for one thread that sends and one that receives."""

    def __init__(self, connection: http.client.HTTPConnection, home: Connections) -> None:
        assert connection.sock is not None
        self._connection, self._sock, self._home = connection, connection.sock, home
        self._lock = threading.Lock()  # OpenSSL does not take two calls at a time for one connection
        self._sock.settimeout(0)

    def send(self, data: bytes) -> None:
        """All of it. Raises ``ConnectionFailed``."""
        view = memoryview(data)
        with _told(self._home.address):
            while view:
                if sent := self._when(select.POLLOUT, self._sock.send, view):
                    view = view[sent:]

    def receive(self) -> bytes:
        """What comes next; nothing at its end. Raises ``ConnectionFailed``, also after a long silence."""
        with _told(self._home.address):
            data: bytes | None = None
            while data is None:
                data = self._when(select.POLLIN, self._sock.recv, _PIECE)
            return data

    def _when(self, event: int, do: Callable[[A], T], argument: A) -> T | None:
        """Do it; None when that was not possible yet, and may be now."""
        try:
            with self._lock:
                return do(argument)
        except ssl.SSLWantReadError:
            event = select.POLLIN
        except ssl.SSLWantWriteError:
            event = select.POLLOUT
        except BlockingIOError:
            pass
        poll = select.poll()
        poll.register(self._sock, event)
        if not poll.poll(_SILENCE * 1000):
            raise TimeoutError
        return None

    def close(self) -> None:
        """Whoever waits for it gets its end."""
        _shut(self._connection)
        self._home.put(self._connection)


class Connections:
    """To one nsbox. Any thread may use it; each request has a connection of its own meanwhile."""

    def __init__(
        self, address: Address, key: str, agent: str, connect_timeout: float, context: ssl.SSLContext | None
    ) -> None:
        self.address = address
        self._headers = {"Authorization": f"Bearer {key}", "User-Agent": agent, "Accept-Encoding": "identity"}
        self._connect_timeout, self._context = connect_timeout, context
        self._idle: list[http.client.HTTPConnection] = []
        self._busy: set[http.client.HTTPConnection] = set()
        self._lock = threading.Lock()
        self._closed = False

    def send(self, request: Request) -> Reply:
        """A request, and the head of its answer. Raises ``ConnectionFailed``."""
        connection = self._take() or self._connect()
        try:
            with _told(self.address):
                assert connection.sock is not None
                connection.sock.settimeout(request.timeout)
                _write(connection, self.address.path(request.target), self._headers, request)
                response = connection.getresponse()
                _check_framed(request, response)
        except BaseException:
            self._drop(connection)
            raise
        return Reply(response, connection, self)

    def line(self, request: Request, socket: WebSocket) -> Line:
        """A connection on which this WebSocket was asked for. Raises ``ConnectionFailed``."""
        connection = self._connect()
        try:
            line = Line(connection, self)
            headers = [*self._headers.items(), *request.headers]
            line.send(socket.ask(self.address.authority, self.address.path(request.target), headers))
        except BaseException:
            self._drop(connection)
            raise
        return line

    def _take(self) -> http.client.HTTPConnection | None:
        """One that waits. What can be read from it is its end: nothing was asked."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
                self._busy.add(connection)
            assert connection.sock is not None
            poll = select.poll()
            poll.register(connection.sock, select.POLLIN)
            if not poll.poll(0):
                return connection
            self._drop(connection)

    def _connect(self) -> http.client.HTTPConnection:
        where, timeout = self.address, self._connect_timeout
        connection: http.client.HTTPConnection
        if where.tls:
            # Once: reading all certificates of the host takes its time.
            self._context = context = self._context or ssl.create_default_context()
            connection = http.client.HTTPSConnection(where.host, where.port, timeout=timeout, context=context)
        else:
            connection = http.client.HTTPConnection(where.host, where.port, timeout=timeout)
        with self._lock:
            if self._closed:
                raise NsboxError("this client is closed")
            self._busy.add(connection)
        try:
            connection.connect()
            assert connection.sock is not None
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _ALIVE:
                connection.sock.setsockopt(socket.IPPROTO_TCP, option, value)
        except ssl.SSLCertVerificationError as error:
            self._drop(connection)
            raise Untrusted(
                f"the certificate of {where.url} is not trusted: {error.verify_message}"
            ) from error
        except OSError as error:
            self._drop(connection)
            raise Unreachable(f"{where.url} cannot be reached: {_words(error)}") from error
        except BaseException:
            self._drop(connection)
            raise
        return connection

    def put(self, connection: http.client.HTTPConnection) -> None:
        """It is free for the next request."""
        with self._lock:
            self._busy.discard(connection)
            if not self._closed and len(self._idle) < _KEPT and connection.sock is not None:
                self._idle.append(connection)
                return
        connection.close()

    def _drop(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            self._busy.discard(connection)
        connection.close()

    def close(self) -> None:
        """Close all, those in use too: who waits on one gets an error."""
        with self._lock:
            self._closed = True
            idle, self._idle, busy = self._idle, [], list(self._busy)
        for connection in idle:
            connection.close()
        for connection in busy:
            _shut(connection)


def _write(
    connection: http.client.HTTPConnection, path: str, headers: dict[str, str], request: Request
) -> None:
    body, sent = request.body, {**headers, **dict(request.headers)}
    if not isinstance(body, Upload):
        if body is None and request.method in ("POST", "PUT", "PATCH"):
            body = b""
        connection.request(request.method, path, body, sent)
        return
    sent |= {"Transfer-Encoding": "chunked"} if body.size is None else {"Content-Length": str(body.size)}
    connection.putrequest(request.method, path, skip_accept_encoding=True)
    for name, value in sent.items():
        connection.putheader(name, value)
    connection.endheaders()
    # Refused half-way, with an answer that says why: it is read next.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for piece in body.pieces():
            connection.send(piece if body.size is not None else b"%x\r\n%b\r\n" % (len(piece), piece))
        if body.size is None:
            connection.send(b"0\r\n\r\n")


def _check_framed(request: Request, response: http.client.HTTPResponse) -> None:
    """The end of an answer without a length cannot be told from its loss, even in the middle of its head."""
    if response.length is None and not response.chunked and request.method != "HEAD":
        response.close()  # the connection has handed it over, and closes it no more
        raise ConnectionLost("the answer came without its length")


def _shut(connection: http.client.HTTPConnection) -> None:
    """close() alone would wait for whoever reads from it."""
    sock = connection.sock
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
    connection.close()


@contextlib.contextmanager
def _told(address: Address) -> Iterator[None]:
    """What the library raises, as ours."""
    try:
        yield
    except ConnectionFailed:
        raise
    except TimeoutError as error:
        raise TimedOut(f"no answer from {address.url} in time") from error
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionLost(f"the connection to {address.url} was lost: {_words(error)}") from error
    except (ValueError, AttributeError) as error:
        # Of http.client and socket when another thread has closed the connection; of a length that is no
        # number.
        raise ConnectionLost(f"the connection to {address.url} was lost: it was closed") from error


def _words(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
