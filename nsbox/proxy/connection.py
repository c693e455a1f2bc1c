"""One visitor's connection: requests in, one at a time, each framed, all for one port of one sandbox.

Two tasks. This one reads the client: head, body, next head. The other (``answers``) reads the sandbox. Each
waits for its own side only, so a request costs two wake-ups, and a side that ends or breaks off is noticed
while the other is still talking. What one task does to the other it does by closing a socket, which wakes
whoever waits for it.

A connection of the sandbox's side belongs to this connection alone and is never given to another visitor:
what a sandbox sends besides its answers has nowhere to go.
"""

from __future__ import annotations

import logging
import socket

import trio

from nsbox.host import dialled
from nsbox.host.box import Unresponsive
from nsbox.model.ports import Port
from nsbox.model.ports import Protocol as Kind
from nsbox.plan.previews import Target
from nsbox.proxy import access, answers, head, pages, relay, rewrite, route
from nsbox.proxy.bodies import Body, Chunked, Sized
from nsbox.proxy.edge import Edge
from nsbox.proxy.head import MalformedError, Request
from nsbox.proxy.pages import Fault
from nsbox.proxy.relay import ClosedError, Line
from nsbox.service.ports import Reach

_log = logging.getLogger(__name__)

#: What is received at once where a head is expected. What comes behind it is kept while the answer is on its
#: way.
_AHEAD = 16 * 1024
#: Asked again on a new connection when the old one turns out to be closed (RFC 9110, 9.2.1).
_SAFE = frozenset({b"GET", b"HEAD", b"OPTIONS"})
_UNREACHED = {
    Reach.PAUSED: Fault.PAUSED,
    Reach.NO_SANDBOX: Fault.NO_SANDBOX,
    Reach.NOT_EXPOSED: Fault.NOT_EXPOSED,
}


class Exchange:
    """A request and its answer. ``again``: may be sent a second time. ``done``: the answer is complete."""

    def __init__(self, request: Request, sent: bytes, cookie: bytes, *, again: bool) -> None:
        self.request, self.sent, self.cookie, self.again = request, sent, cookie, again
        self.request_done = self.tunnel = False
        self.done = trio.Event()


class _Told(Exception):
    """The client has been, or is to be, told of a fault."""

    def __init__(self, fault: Fault, detail: str = "", status: int = 0) -> None:
        super().__init__(fault)
        self.fault, self.detail, self.status = fault, detail, status


class Connection:
    """From accept to close. ``busy``: a request is being served. ``deadline``: when it has taken too long."""

    def __init__(self, sock: socket.socket, address: str, edge: Edge) -> None:
        self.edge = edge
        self.client = Line(sock, edge.held, self._moved, self._blocked)
        self.who = rewrite.client(address, edge.trusted)
        self.target: Target | None = None
        self.exchange: Exchange | None = None
        self.upstream: Line | None = None
        self.busy = self.closing = False
        self._stalled = self._in_head = False
        self._aborted = False
        self.deadline = edge.now + edge.bounds.head_s
        self.since = edge.now

    @property
    def endless(self) -> bool:
        """Whether it has become a tunnel."""
        return self.exchange is not None and self.exchange.tunnel

    @property
    def place(self) -> tuple[str, int] | None:
        """The sandbox and port it leads to, once that is known."""
        return self.target[:2] if self.target is not None else None

    # ---- time

    def _moved(self) -> None:
        if self.busy and not self._stalled:
            self.deadline = self.edge.now + self.edge.bounds.idle_s

    def _blocked(self, blocked: bool) -> None:
        self._stalled = blocked
        if blocked:
            self.deadline = self.edge.now + self.edge.bounds.stall_s
        else:
            self._moved()

    def rest(self) -> None:
        """The answer is complete: the next request may take its time, but not once it has begun."""
        self.busy = False
        self.since = self.edge.now
        bounds = self.edge.bounds
        self.deadline = self.edge.now + (bounds.head_s if self._in_head else bounds.keep_alive_s)

    def hang_up(self) -> None:
        """We have said our last word. A close(2) now would, with something unread, make the kernel send RST,
        and the client might lose that word: it gets a moment to hang up itself."""
        self.busy, self.closing = False, True
        self.client.finish()
        self.deadline = self.edge.now + self.edge.bounds.linger_s
        if self.upstream is not None:
            self.upstream.close()

    def abort(self) -> None:
        """Close both sides now; whoever waits for them is woken."""
        self._aborted = True
        self.client.close()
        if self.upstream is not None:
            self.upstream.close()

    # ---- the client's side

    async def run(self) -> None:
        """Serve until either side has had enough. Raises nothing but cancellation."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await self._requests()
                if self.upstream is not None and not (self.exchange and self.exchange.tunnel):
                    self.upstream.close()
        except* (ClosedError, MalformedError):
            pass  # a side left in the middle of something, or sent what nobody can follow
        except* Exception:
            _log.warning("a connection was closed because of an error", exc_info=True)
        finally:
            self.abort()
            if self.target is not None:
                self.edge.leave(self.target.sandbox_id)

    async def _requests(self) -> None:
        buffer = b""
        try:
            while (found := await self._head(buffer)) is not None:
                first, buffer = found
                left = await self._request(first, buffer)
                if left is None:
                    break
                buffer = left
        except _Told as told:
            await self._previous()
            await self.tell(told.fault, None, told.detail, told.status)
        await self._drain()

    async def _head(self, buffer: bytes) -> tuple[bytes, bytes] | None:
        """The next head and what came behind it; None at the end of the connection."""
        if buffer.startswith(b"\r\n"):
            buffer = buffer[2:]  # an empty line before a request is passed over (RFC 9112, 2.2)
        while not self.closing:
            try:
                end = head.end_of_head(buffer)
            except MalformedError as error:
                raise _Told(Fault.MALFORMED, error.detail, error.status) from error
            if end >= 0:
                self._in_head = False
                return buffer[:end], buffer[end:]
            if buffer and not self._in_head:
                self._in_head = True
                if not self.busy:
                    self.deadline = self.edge.now + self.edge.bounds.head_s
            data = await self.client.receive(_AHEAD)
            if not data:
                return None
            buffer += data
        return None

    async def _request(self, first: bytes, rest: bytes) -> bytes | None:
        """Serve one request; what came behind it, or None when no other may follow."""
        try:
            request = head.request(first)
        except MalformedError as error:
            raise _Told(Fault.MALFORMED, error.detail, error.status) from error
        await self._previous()
        if self.closing:
            return None
        self.busy = True
        self._moved()
        try:
            request, cookie, redirect = self._admitted(request)
            if redirect is not None:
                await self.client.send(pages.redirect(redirect, cookie))
                self.hang_up()
                return None
            assert self.target is not None
            await self._wake(self.target)
            reused = self.upstream is not None
            upstream = self.upstream or await self.reach()
        except _Told as told:
            await self.tell(told.fault, request, told.detail, told.status)
            return None
        sent = rewrite.request_head(request, self.who, self.target, self.edge.is_key)
        again = reused and request.method in _SAFE and request.length == 0
        exchange = self.exchange = Exchange(request, sent, cookie, again=again)
        rest = await self._send(exchange, upstream, rest)
        if request.upgrade is not None:
            await exchange.done.wait()  # what comes next is a request, or the tunnel's: the answer decides
            if exchange.tunnel:
                await relay.everything(self.client, upstream, rest)
                return None
        return rest if request.keeps_alive and not self.closing else None

    async def _previous(self) -> None:
        """Requests are served one at a time, though a client may send several ahead."""
        if self.exchange is not None:
            await self.exchange.done.wait()

    def _admitted(self, request: Request) -> tuple[Request, bytes, bytes | None]:
        """The request as it may go on, a cookie to set, and where the visitor is sent first. Raises
        ``_Told``."""
        try:
            target = route.target_of(self.edge.form, request)
        except MalformedError as error:
            raise _Told(Fault.MALFORMED, error.detail) from error
        if target is None:
            raise _Told(Fault.NO_PREVIEW)
        if self.target is not None and self.target != target:
            raise _Told(Fault.OTHER_HOST)
        reach, port = self.edge.ports.find(target.sandbox_id, target.port)
        if port is None or port.protocol is not Kind.HTTP:
            raise _Told(_UNREACHED.get(reach, Fault.NOT_EXPOSED))
        cookie, redirect = b"", None
        if port.public:
            request = request._replace(target=access.without_token(request.target)[1])
        else:
            request, cookie, redirect = self._let_in(request, target, port)
        if self.target is None:
            if not self.edge.enter(target.sandbox_id):
                raise _Told(Fault.TOO_MANY, "Too many are connected to this sandbox.")
            self.target = target
        return request, cookie, redirect

    async def _wake(self, target: Target) -> None:
        """After the visitor was let in: whoever may not come in wakes nobody. Raises ``_Told``."""
        try:
            reach = (await self.edge.ports.wake(*target[:2])).reach
        except Unresponsive as error:
            raise _Told(Fault.UNRESPONSIVE) from error
        if reach is not Reach.OPEN:
            raise _Told(_UNREACHED[reach])

    def _let_in(self, request: Request, target: Target, port: Port) -> tuple[Request, bytes, bytes | None]:
        verdict = access.judge(
            request,
            target,
            lambda token: self.edge.ports.admits(token, target.sandbox_id, port),
            rewrite.scheme(self.who, request),
        )
        if verdict.request is None:
            raise _Told(Fault.LINK_NEEDED)
        return verdict.request, verdict.cookie, verdict.redirect

    async def reach(self) -> Line:
        """A new connection to the port; its answers are waited for. Raises ``_Told``."""
        assert self.target is not None
        try:
            sock = await self.edge.ports.dial(self.target.sandbox_id, self.target.port)
        except dialled.NotListening as error:
            raise _Told(Fault.NOT_LISTENING) from error
        except Unresponsive as error:
            raise _Told(Fault.UNRESPONSIVE) from error
        line = Line(sock, self.edge.held, self._moved, lambda blocked: None)
        if self._aborted:  # while we dialled
            line.close()
            raise ClosedError(self.client, "cut")
        self.upstream = line
        self._nursery.start_soon(answers.take, self, line)
        return line

    async def send_again(self, exchange: Exchange) -> bool:
        """On a new connection, since the old one was closed before it was read; whether that was possible."""
        exchange.again = False
        self.upstream = None
        try:
            line = await self.reach()
        except _Told as told:
            await self.tell(told.fault, exchange.request)
            return False
        await line.send(exchange.sent)
        return True

    async def _send(self, exchange: Exchange, upstream: Line, rest: bytes) -> bytes:
        """The request, head and body; what came behind it."""
        length = exchange.request.length
        until: Body = Chunked(rewrite.NO_TRAILERS) if length is None else Sized(length)
        used = until.feed(memoryview(rest)) if rest and not until.done else 0
        exchange.request_done = until.done
        try:
            await upstream.send(exchange.sent + rest[:used] if used else exchange.sent)
            rest = await relay.body(self.client, upstream, until) or rest[used:]
        except ClosedError as error:
            if exchange.request_done:
                return rest[used:]
            if error.line is self.client:
                raise
            # The sandbox takes no more, and may still have an answer: that is for the other task to find out.
            await exchange.done.wait()
            return b""
        if not until.done:
            raise ClosedError(self.client, "the client left in the middle of a body")
        exchange.request_done = True
        return rest

    async def _drain(self) -> None:
        """Nothing more is taken from the client. Its end, while it waits for an answer, is told to the
        sandbox, which may then stop working on it, as if nobody stood between."""
        while not self.client.ended:
            await self.client.receive()
            await trio.lowlevel.checkpoint()  # one that floods us must not hold the loop
        exchange = self.exchange
        if exchange is not None and not exchange.tunnel:
            if self.upstream is not None and not exchange.done.is_set():
                self.upstream.finish()
            await exchange.done.wait()

    async def tell(self, fault: Fault, request: Request | None, detail: str = "", status: int = 0) -> None:
        """Answer with a page of our own, and hang up."""
        await self.client.send(pages.answer(fault, request, detail=detail, status=status))
        self.hang_up()
