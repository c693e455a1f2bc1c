"""httpx2 on connections of our own making, and streams that are closed when they are left.

httpx2's own transport has no parameter for how to connect, and leaves the generator of an answer's body to
the garbage collector when it is not read to its end: trio tells of each.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator
from contextlib import aclosing

import httpcore2
import httpx2

_KEPT_S = 30.0


class Transport(httpx2.AsyncBaseTransport):
    """Raises httpcore2's errors, where httpx2's would raise its own."""

    def __init__(self, backend: httpcore2.AsyncNetworkBackend, context: ssl.SSLContext, most: int) -> None:
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=context, network_backend=backend, max_connections=most, keepalive_expiry=_KEPT_S
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """One request and the beginning of its answer."""
        assert isinstance(request.stream, httpx2.AsyncByteStream)
        answer = await self._pool.handle_async_request(
            httpcore2.Request(
                method=request.method,
                url=httpcore2.URL(
                    scheme=request.url.raw_scheme,
                    host=request.url.raw_host,
                    port=request.url.port,
                    target=request.url.raw_path,
                ),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx2.Response(
            answer.status, headers=answer.headers, stream=_Stream(answer), extensions=answer.extensions
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()


class _Stream(httpx2.AsyncByteStream):
    def __init__(self, answer: httpcore2.Response) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        stream = self._answer.aiter_stream()
        async with aclosing(stream):
            async for piece in stream:
                yield piece

    async def aclose(self) -> None:
        await self._answer.aclose()
