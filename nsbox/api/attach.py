"""``GET /sandboxes/:id/processes/:key/attach``: a WebSocket to a process, its streams and its terminal.

Text frames are JSON, one object each, told apart by ``type``. A binary frame from us is one byte of channel
(1 stdout, 2 stderr), eight of the offset of its first byte in the log, then the bytes; one to us is the byte
0 and what goes to stdin. Who comes back gives the offset behind the last byte it has: ``?offset=``. Nothing
ends because somebody leaves who has not asked for that (``leaving``).
"""

from __future__ import annotations

import math
import struct
from typing import Any

import msgspec
import trio

from nsbox.api import leaving, parameters, query, schema, scopes, streaming, views
from nsbox.api.admission import Admission
from nsbox.api.audit import Recorder
from nsbox.api.exchange import Exchange, Receive, Scope, Send
from nsbox.api.ongoing import ENDED, Ongoing
from nsbox.api.problems import tell
from nsbox.api.services import Services
from nsbox.api.tickets import PROTOCOL, Tickets
from nsbox.api.websocket import ROUTE, RULE
from nsbox.host.logs import Piece
from nsbox.model.account import Caller
from nsbox.model.errors import Code, Problem

_KNOWN = parameters.names(parameters.ATTACH)
_ENCODER = msgspec.json.Encoder()
_HEAD = struct.Struct(">BQ")
_STDIN = 0
#: What a client may have sent for stdin that is not taken yet; who sends more, and does not wait for
#: ``stdin`` messages, is cut off.
WINDOW = 256 * 1024
_NORMAL, _VIOLATION, _OVERRUN, _FAILED = 1000, 1008, 1013, 1011


class _Control(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client says in a text frame."""

    type: str
    rows: int = 24
    columns: int = 80
    signal: str | int = "TERM"


_CONTROLS = schema.Reader(_Control)


class _CutError(Exception):
    """The client did what it must not."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class Attach:
    """The route, as ASGI."""

    def __init__(
        self,
        services: Services,
        admission: Admission,
        tickets: Tickets,
        recorder: Recorder,
        ongoing: Ongoing,
    ) -> None:
        self._services, self._admission, self._tickets = services, admission, tickets
        self._recorder, self._ongoing = recorder, ongoing

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, from the handshake to its end. Raises nothing but cancellation."""
        exchange = Exchange(scope, receive, send)
        try:
            await self._serve(exchange, receive, send)
        finally:
            self._admission.leave(exchange)

    async def _serve(self, exchange: Exchange, receive: Receive, send: Send) -> None:
        try:
            caller, place, begin, kill = self._admit(exchange)
            exchange.caller = caller
            follower = await self._services.commands.follow(caller.owner, *place, begin, text=False)
        except Exception as error:
            told = tell(error)
            headers = [*told.headers, *exchange.extra]
            await send({"type": "websocket.http.response.start", "status": told.status, "headers": headers})
            await send({"type": "websocket.http.response.body", "body": told.body})
            return
        self._recorder.note_socket(exchange)
        offered = exchange.scope["subprotocols"]
        await receive()  # websocket.connect
        await send({"type": "websocket.accept", "subprotocol": PROTOCOL if offered else None})
        leash = leaving.Leash(self._services.commands, place[0], exchange, kill=kill)
        leash.hold(place[1])
        session = _Session(self._services, self._ongoing, caller, place, receive, send, leash)
        try:
            with self._ongoing.hold(exchange):
                await session.run(follower)
        except Problem as ended:  # nothing but the end of the key
            await session.cut_off(ended.detail)

    def _admit(self, exchange: Exchange) -> tuple[Caller, tuple[str, str], int, bool]:
        """Who it is, which process, from where, and whether that is to end when the client leaves. Raises
        ``Problem``.

        A page of another site can have a browser make this request, but it can neither add a header nor know
        a ticket, and cookies are not looked at. A ticket is bound to the origin of its page besides.
        """
        match = ROUTE.fullmatch(exchange.scope["raw_path"].decode("ascii"))
        if match is None:
            raise Problem(Code.ROUTE_NOT_FOUND, "there is no such route")
        place = match[1], match[2]
        offered: list[str] = exchange.scope["subprotocols"]
        tickets = [one.removeprefix(f"{PROTOCOL}.") for one in offered if one.startswith(f"{PROTOCOL}.")]
        origin = exchange.header(b"origin")
        if tickets:
            where = None if origin is None else origin.decode("latin-1")
            caller = self._by_ticket(exchange, tickets[0], place, where)
        else:
            caller = self._admission.admit(exchange)
            if origin is not None:
                raise Problem(
                    Code.INVALID_KEY,
                    "a page in a browser connects with a ticket",
                    remedy="ask for one with its origin: POST …/processes/ID/ticket",
                )
        scopes.check(caller, "GET", RULE)
        if offered and PROTOCOL not in offered:
            raise Problem(Code.INVALID_REQUEST, f"the sub-protocol is {PROTOCOL}")
        asked = query.parse(exchange.scope["query_string"], _KNOWN)
        return caller, place, streaming.offset(exchange, asked), leaving.kills(asked)

    def _by_ticket(
        self, exchange: Exchange, ticket: str, place: tuple[str, str], origin: str | None
    ) -> Caller:
        try:
            caller = self._tickets.take(ticket, *place, origin)
        except Problem:
            self._admission.failed(exchange)
            raise
        if self._services.keys.caller(caller.key.id) is None:
            raise Problem(Code.INVALID_KEY, "the key that the ticket was made with is in force no more")
        self._admission.enter(exchange, caller)
        return caller


class _Session:
    """One client on one process."""

    def __init__(
        self,
        services: Services,
        ongoing: Ongoing,
        caller: Caller,
        place: tuple[str, str],
        receive: Receive,
        send: Send,
        leash: leaving.Leash,
    ) -> None:
        self._commands, self._leash = services.commands, leash
        self._ongoing, self._caller = ongoing, caller
        self._owner, self._place = caller.owner, place
        self._receive, self._send = receive, send
        self._typed = bytearray()
        self._more = trio.Event()
        self._taken = 0
        self._close_asked = False

    async def run(self, follower: Any) -> None:
        """Until the process has ended and all is told, or the client has left."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, nursery.cancel_scope)
                nursery.start_soon(self._type)
                with follower:
                    await self._tell("started", process=views.process(follower.process()))
                    await self._show(follower)
                    await self._tell("exit", process=views.process(follower.process()))
                await self._end(_NORMAL, "")
                nursery.cancel_scope.cancel()
        except* _CutError as cut:
            first = cut.exceptions[0]
            await self.cut_off(str(first), getattr(first, "code", _VIOLATION))
        except* Exception as error:
            await self._problem(error)
            await self._end(_FAILED, "")

    async def cut_off(self, reason: str, code: int = _VIOLATION) -> None:
        """The client has done what it must not, or may no more."""
        await self._leash.let_go()
        await self._end(code, reason)

    async def _show(self, follower: Any) -> None:
        while (found := await follower.next()) is not None:
            self._check_key()
            if isinstance(found, Piece):
                head = _HEAD.pack(1 + found.stream, found.offset)
                await self._send({"type": "websocket.send", "bytes": head + found.data})
            else:
                await self._tell("dropped", offset=found.offset, until=found.until)

    def _check_key(self) -> None:
        """With a key that is revoked nothing more gets through, not even until ``Ongoing`` looks."""
        if not self._ongoing.in_force(self._caller):
            raise _CutError(_VIOLATION, ENDED)

    async def _tell(self, kind: str, **members: Any) -> None:
        text = _ENCODER.encode({"type": kind, **members}).decode()
        await self._send({"type": "websocket.send", "text": text})

    async def _problem(self, error: BaseException) -> None:
        await self._tell("problem", problem=msgspec.Raw(tell(error).body))

    async def _end(self, code: int, reason: str) -> None:
        await self._send({"type": "websocket.close", "code": code, "reason": reason or None})

    # ---- what the client says

    async def _listen(self, scope: trio.CancelScope) -> None:
        """Always ready to read: pings are answered and a client that leaves is noticed, whatever the process
        does."""
        while (message := await self._receive())["type"] == "websocket.receive":
            self._check_key()
            data = message.get("bytes")
            if data is None:
                await self._control(message["text"])
            elif not data or data[0] != _STDIN:
                raise _CutError(_VIOLATION, "a binary message to a process begins with the byte 0")
            else:
                self._put(data[1:])
        await self._leash.let_go()
        scope.cancel()

    def _put(self, data: bytes) -> None:
        if len(self._typed) + len(data) > WINDOW:
            raise _CutError(_OVERRUN, f"more than {WINDOW} bytes for stdin that are not taken yet")
        self._typed += data
        self._more.set()

    async def _control(self, text: str) -> None:
        """A wish that cannot be met is told, and the connection goes on."""
        try:
            wish = _CONTROLS.read(text.encode())
            match wish.type:
                case "resize":
                    size = schema.Terminal(rows=wish.rows, columns=wish.columns).size()
                    await self._commands.resize(self._owner, *self._place, size)
                case "signal":
                    number = schema.SendSignal(signal=wish.signal).number()
                    await self._commands.signal(self._owner, *self._place, number)
                case "closeStdin":
                    self._close_asked = True
                    self._more.set()
                case _:
                    raise Problem(Code.INVALID_FIELD, "type is resize, signal or closeStdin", field="type")
        except Problem as problem:
            await self._problem(problem)

    async def _type(self) -> None:
        """Give to stdin what has come, and tell how much of it was taken."""
        while True:
            self._more = trio.Event()
            if not self._typed and not self._close_asked:
                await self._more.wait()
            try:
                if self._typed:
                    await self._write()
                elif self._close_asked:
                    self._close_asked = False
                    await self._commands.close_stdin(self._owner, *self._place)
            except Problem as problem:
                # Not kept, and so not to be waited for: the client has room for more.
                self._taken += len(self._typed)
                self._typed.clear()
                await self._problem(problem)
                await self._tell("stdin", taken=self._taken)

    async def _write(self) -> None:
        data = bytes(self._typed[:4096])
        taken = await self._commands.write_stdin(self._owner, *self._place, data, math.inf)
        del self._typed[:taken]
        self._taken += taken
        await self._tell("stdin", taken=self._taken)
