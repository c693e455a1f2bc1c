"""HTTP for trio and asyncio: httpx2's connections, without what httpx2 puts around them.

Its own transport leaves the generator of an answer's body to the garbage collector when that is not read to
its end; here whoever opens a body closes it."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING

import anyio
import httpcore2

from nsbox.client.address import Address
from nsbox.client.asynchronous.sending import AsyncUpload
from nsbox.client.call import Request
from nsbox.client.errors import (
    ConnectionLost,
    NsboxError,
    TimedOut,
    UnexpectedAnswer,
    Unreachable,
    Untrusted,
)

if TYPE_CHECKING:
    from nsbox.client.websocket import WebSocket

_MOST_CONNECTIONS, _KEPT, _KEPT_S = 1_000, 16, 60.0
_MOST = 256 * 1024 * 1024
#: On a line there is a ping of nsbox's every 20 s.
_PIECE, _SILENCE = 256 * 1024, 60.0
_ALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
]


class AsyncReply:
    """An answer whose body is still to come. Close it."""

    def __init__(self, response: httpcore2.Response, address: Address) -> None:
        self._response, self._address = response, address
        self.status = response.status
        self.headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers
        }

    async def __aenter__(self) -> AsyncReply:
        return self

    async def __aexit__(self, *unused: object) -> None:
        with anyio.CancelScope(shield=True):
            await self._response.aclose()

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes. Raises ``ConnectionFailed`` also where it ends too early. Close it."""
        with _told(self._address):
            stream = self._response.aiter_stream()
            async with aclosing(stream):
                async for piece in stream:
                    yield piece

    async def read(self) -> bytes:
        """The whole body."""
        data = bytearray()
        async with aclosing(self.pieces()) as pieces:
            async for piece in pieces:
                data += piece
                if len(data) > _MOST:
                    raise UnexpectedAnswer(f"an answer of more than {_MOST} bytes")
        return bytes(data)


class AsyncLine:
    """A connection of its own, for one task that sends and one that receives."""

    def __init__(self, stream: httpcore2.AsyncNetworkStream, address: Address, all: set[AsyncLine]) -> None:
        self._stream, self._address, self._all = stream, address, all
        all.add(self)

    async def send(self, data: bytes) -> None:
        """All of it. Raises ``ConnectionFailed``."""
        with _told(self._address):
            await self._stream.write(data, timeout=_SILENCE)

    async def receive(self) -> bytes:
        """What comes next; nothing at its end. Raises ``ConnectionFailed``, also after a long silence."""
        with _told(self._address):
            return await self._stream.read(_PIECE, timeout=_SILENCE)

    async def close(self) -> None:
        """Whoever waits for it gets an error."""
        self._all.discard(self)
        with anyio.CancelScope(shield=True):
            await self._stream.aclose()


class AsyncConnections:
    """To one nsbox, for the tasks of one event loop."""

    def __init__(
        self, address: Address, key: str, agent: str, connect_timeout: float, context: ssl.SSLContext | None
    ) -> None:
        self._address, self._connect_timeout = address, connect_timeout
        self._headers = [("Authorization", f"Bearer {key}"), ("User-Agent", agent)]
        self._context = context or (ssl.create_default_context() if address.tls else None)
        self._lines: set[AsyncLine] = set()
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=self._context,
            max_connections=_MOST_CONNECTIONS,
            max_keepalive_connections=_KEPT,
            keepalive_expiry=_KEPT_S,
            socket_options=_ALIVE,
        )

    async def send(self, request: Request) -> AsyncReply:
        """A request, and the head of its answer. Raises ``ConnectionFailed``."""
        where = self._address
        wanted = httpcore2.URL(
            scheme="https" if where.tls else "http",
            host=where.host,
            port=where.port,
            target=where.path(request.target),
        )
        content, headers = _content(request)
        times = {"connect": self._connect_timeout, "read": request.timeout, "write": request.timeout}
        with _told(where):
            response = await self._pool.handle_async_request(
                httpcore2.Request(
                    method=request.method,
                    url=wanted,
                    headers=[("Host", where.authority), *self._headers, *request.headers, *headers],
                    content=content,
                    extensions={"timeout": times},
                )
            )
        reply = AsyncReply(response, where)
        if "content-length" not in reply.headers and "transfer-encoding" not in reply.headers:
            async with reply:
                raise ConnectionLost("the answer came without its length")
        return reply

    async def line(self, request: Request, socket: WebSocket) -> AsyncLine:
        """A connection on which this WebSocket was asked for. Raises ``ConnectionFailed``."""
        where, limit = self._address, self._connect_timeout
        with _told(where):
            stream = await httpcore2.AnyIOBackend().connect_tcp(
                where.host, where.port, timeout=limit, socket_options=_ALIVE
            )
            if self._context is not None:
                stream = await stream.start_tls(self._context, server_hostname=where.host, timeout=limit)
        line = AsyncLine(stream, where, self._lines)
        try:
            headers = [*self._headers, *request.headers]
            await line.send(socket.ask(where.authority, where.path(request.target), headers))
        except BaseException:
            await line.close()
            raise
        return line

    async def close(self) -> None:
        """Close all connections."""
        with anyio.CancelScope(shield=True):
            for line in list(self._lines):
                await line.close()
            await self._pool.aclose()


def _content(request: Request) -> tuple[bytes | AsyncIterator[bytes] | None, list[tuple[str, str]]]:
    """The body, and how its end is told."""
    body = request.body
    if isinstance(body, AsyncUpload):
        how = ("Transfer-Encoding", "chunked") if body.size is None else ("Content-Length", str(body.size))
        return body.pieces(), [how]
    if body is None and request.method not in ("POST", "PUT", "PATCH"):
        return None, []
    data: bytes = body or b""
    return data, [("Content-Length", str(len(data)))]


@contextlib.contextmanager
def _told(address: Address) -> Iterator[None]:
    """What httpcore raises, as ours."""
    try:
        yield
    except NsboxError:
        raise
    except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
        if why := _distrust(error):
            raise Untrusted(f"the certificate of {address.url} is not trusted: {why}") from error
        raise Unreachable(f"{address.url} cannot be reached: {error}") from error
    except httpcore2.TimeoutException as error:
        raise TimedOut(f"no answer from {address.url} in time") from error
    except (httpcore2.NetworkError, httpcore2.ProtocolError) as error:
        raise ConnectionLost(f"the connection to {address.url} was lost: {error}") from error


def _distrust(error: BaseException | None) -> str:
    """Why a certificate is not trusted, if it is that."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error.verify_message
        error = error.__cause__ or error.__context__
    return ""
