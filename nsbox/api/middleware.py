"""The gate before every route: who asks, how much they send, and what becomes of errors.

Keys are checked before routes are looked up, so without a key nobody learns which routes exist.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol

import msgspec

from nsbox.api import scopes
from nsbox.api.admission import Admission
from nsbox.api.bodies import Bodies
from nsbox.api.exchange import ClientLeftError, Exchange, Headers, Receive, Scope, Send
from nsbox.api.ongoing import Ongoing
from nsbox.api.operations import match
from nsbox.api.services import Services
from nsbox.model.account import Caller
from nsbox.model.errors import Code, Problem

BASE = scopes.BASE
#: Where a handler finds its ``Call``.
CALL = "nsbox.call"


class Call(msgspec.Struct, frozen=True):
    """What a handler knows of a request besides its path."""

    owner: str
    query: bytes
    body: bytes
    caller: Caller


class RawRoute(msgspec.Struct, frozen=True):
    """A route beside Quart: it streams, or must be quick. ``takes`` tells whether a request is for it.
    ``rule`` is written as Quart writes its own; of other ``methods`` it is told that they are not taken."""

    rule: str
    methods: tuple[str, ...]
    takes: Callable[[Exchange], bool]
    handle: Callable[[Exchange, str], Awaitable[None]]

    async def serve(self, exchange: Exchange, caller: Caller) -> None:
        """What the gate does with a request that is for it."""
        method: str = exchange.scope["method"]
        if method not in self.methods:
            detail = f"the route takes {', '.join(self.methods)}"
            raise Problem(Code.METHOD_NOT_ALLOWED, detail, allowed=list(self.methods))
        scopes.check(caller, method, self.rule)
        await self.handle(exchange, caller.owner)


class Sockets(Protocol):
    """What takes WebSockets."""

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI; it asks who asks by itself."""
        ...


class Recorder(Protocol):
    """What takes down who did what."""

    def note(self, exchange: Exchange, status: int, headers: Headers) -> None:
        """An answer begins; status 0: the client has left before."""
        ...


class Gate:
    """The outer ASGI application."""

    def __init__(
        self,
        routes: Callable[[Scope, Receive, Send], Awaitable[None]],
        rule_of: Callable[[str, str], str],
        raw_routes: list[RawRoute],
        services: Services,
        admission: Admission,
        recorder: Recorder,
        bodies: Bodies,
        sockets: Sockets,
        ongoing: Ongoing,
        outside: dict[str, Callable[[Exchange], Awaitable[None]]] | None = None,
    ) -> None:
        """``rule_of`` a method and a path: which of ``routes`` it is. Raises ``Problem`` where it is none."""
        self._rule_of = rule_of
        self.ongoing = ongoing
        self._sockets = sockets
        self._recorder = recorder
        self._routes = routes
        self._raw_routes = raw_routes
        self._services = services
        self._admission = admission
        self._bodies = bodies
        #: Method and rule of every route below ``BASE``, however it is served.
        self.rules: frozenset[tuple[str, str]] = frozenset()
        #: Routes that are not below ``BASE``; they ask for a key themselves.
        self._outside = outside or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self._routes(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(Exchange(scope, receive, send))
        else:
            await self._sockets.serve(scope, receive, send)

    async def _http(self, exchange: Exchange) -> None:
        exchange.watch = partial(self._recorder.note, exchange)
        try:
            with self.ongoing.hold(exchange):
                await self._route(exchange)
        except* ClientLeftError:
            if not exchange.started:
                self._recorder.note(exchange, 0, [])
        except* Exception as errors:
            await exchange.fail(errors)
        finally:
            self._admission.leave(exchange)

    async def _route(self, exchange: Exchange) -> None:
        path = exchange.scope["raw_path"].decode("ascii")
        if path in ("/healthz", f"{BASE}/healthz"):
            await self._health(exchange)
            return
        if path in self._outside:
            await self._outside[path](exchange)
            return
        if path != BASE and not path.startswith(f"{BASE}/"):
            raise Problem(Code.ROUTE_NOT_FOUND, f"the API is under {BASE}")
        caller = self._admission.admit(exchange)
        if "%" in path:
            # Nothing in a route or an id needs encoding, and %2e or %2f would be read twice.
            raise Problem(Code.ROUTE_NOT_FOUND, "no route has a % in its path")
        for raw in self._raw_routes:
            if raw.takes(exchange):
                await raw.serve(exchange, caller)
                return
        await self._through_quart(exchange, caller)

    async def _health(self, exchange: Exchange) -> None:
        if exchange.scope["method"] not in ("GET", "HEAD"):
            raise Problem(Code.METHOD_NOT_ALLOWED, "health is asked with GET", allowed=["GET", "HEAD"])
        fine, facts = self._services.health.health()
        status = {"status": "ok" if fine else "unavailable"}
        await exchange.answer_json(status | facts, 200 if fine else 503)

    async def _through_quart(self, exchange: Exchange, caller: Caller) -> None:
        """Quart gets the request when its body is complete: given the connection, it would take in all that
        comes, whether or not anybody reads it, and count a chunked body only when it is awaited.

        So what the key may is looked at here: who may not is not told what is wrong with the body, and sends
        none in vain."""
        method: str = exchange.scope["method"]
        scopes.check(caller, method, self._rule_of(method, exchange.scope["path"]))
        body = await self._bodies.read(exchange, match.name(method, exchange.scope["path"]))
        exchange.scope[CALL] = Call(caller.owner, exchange.scope["query_string"], body, caller)
        pending: list[dict[str, Any]] = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> dict[str, Any]:
            return pending.pop() if pending else await exchange.receive()

        await self._routes(exchange.scope, receive, exchange.send)
