"""HTTP for trio and asyncio: httpx2's connections, without what httpx2 puts around them.

Its own transport leaves the generator of an answer's body to the garbage collector when that is not read to
its end; here whoever opens a body closes it."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing

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

_MOST_CONNECTIONS, _KEPT, _KEPT_S = 1_000, 16, 60.0
_MOST = 256 * 1024 * 1024
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


class AsyncConnections:
    """To one nsbox, for the tasks of one event loop."""

    def __init__(
        self, address: Address, key: str, agent: str, connect_timeout: float, context: ssl.SSLContext | None
    ) -> None:
        self._address, self._connect_timeout = address, connect_timeout
        host = address.url.partition("://")[2].removesuffix(address.root)
        self._headers = [("Host", host), ("Authorization", f"Bearer {key}"), ("User-Agent", agent)]
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=context or (ssl.create_default_context() if address.tls else None),
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
                    headers=[*self._headers, *request.headers, *headers],
                    content=content,
                    extensions={"timeout": times},
                )
            )
        reply = AsyncReply(response, where)
        if "content-length" not in reply.headers and "transfer-encoding" not in reply.headers:
            async with reply:
                raise ConnectionLost("the answer came without its length")
        return reply

    async def close(self) -> None:
        """Close all connections."""
        with anyio.CancelScope(shield=True):
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
