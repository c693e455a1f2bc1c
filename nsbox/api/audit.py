"""What of a request goes into the audit log, and ``GET /audit``.

State-changing requests, one record each when the answer begins; keys that open nothing, summed up. The path
says which operation it is; nothing else of the request is looked at but who sent it."""

from __future__ import annotations

import re
import time

from quart import Response
from quart_trio import QuartTrio

from nsbox.api import answers, parameters, views
from nsbox.api.admission import Admission
from nsbox.api.exchange import Exchange
from nsbox.api.middleware import BASE
from nsbox.api.operations import match
from nsbox.api.routing import call, reply
from nsbox.api.services import AuditService, Services
from nsbox.model.audit import Event, Outcome, Wish

_KNOWN = parameters.names(parameters.AUDIT)
_MADE = re.compile(rb"/api/v1/sandboxes/([a-z0-9_]+)")
_SAFE = frozenset({"GET", "HEAD"})
#: Ids are shorter; what is longer in a path is none.
_LONGEST = 128
_UNAUTHENTICATED = 401


class Recorder:
    """Notes requests as they are answered."""

    def __init__(self, audit: AuditService, admission: Admission) -> None:
        self._audit, self._admission = audit, admission

    def note(self, exchange: Exchange, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """An answer begins; status 0: the client has left before."""
        if exchange.caller is None:
            if status == _UNAUTHENTICATED and exchange.header(b"authorization") is not None:
                self._audit.note_guess(self._admission.client(exchange))
            return
        method: str = exchange.scope["method"]
        if method in _SAFE:
            return
        place = match.place(method, exchange.scope["path"])
        if place is not None:
            self._record(exchange, place, status, _made(status, headers))

    def note_socket(self, exchange: Exchange) -> None:
        """A WebSocket is let in: what is typed there is typed."""
        place = match.place("GET", exchange.scope["path"])
        if place is not None:
            self._record(exchange, place, 101, None)

    def _record(self, exchange: Exchange, place: match.Place, status: int, made: str | None) -> None:
        caller = exchange.caller
        assert caller is not None
        self._audit.note(
            Event(
                at=time.time(),
                action=place.name,
                client=self._admission.client(exchange),
                outcome=Outcome.of(status),
                status=status,
                user=caller.user.id,
                subject=None if caller.acting_for is None else caller.acting_for.id,
                key=caller.key.id,
                sandbox=_short(place.sandbox) or made,
                target=_short(place.target),
            )
        )


def _made(status: int, headers: list[tuple[bytes, bytes]]) -> str | None:
    """The sandbox that was made has its id in ``Location``."""
    if status != 201:
        return None
    location = next((value for name, value in headers if name.lower() == b"location"), b"")
    found = _MADE.fullmatch(location)
    return None if found is None else found[1].decode()


def _short(text: str | None) -> str | None:
    return None if text is None else text[:_LONGEST]


def add(app: QuartTrio, services: Services) -> None:
    """Add the route."""

    async def find() -> Response:
        asked = call(_KNOWN)
        caller = asked.caller
        everybody = caller.may_act_for_others and caller.acting_for is None
        limit = parameters.AUDIT_LIMIT.of(asked.query)
        wish = Wish(
            limit=limit,
            before=parameters.BEFORE.of(asked.query) if parameters.BEFORE.name in asked.query else None,
            owner=None if everybody else caller.owner,
            user=parameters.BY_USER.of(asked.query) or None,
            sandbox=parameters.BY_SANDBOX.of(asked.query) or None,
            action=parameters.BY_ACTION.of(asked.query) or None,
        )
        found = await services.audit.find(wish)
        more = found[-1].id if len(found) == limit else None
        return reply(answers.AuditView(events=[views.audited(one) for one in found], next=more))

    app.add_url_rule(f"{BASE}/audit", "audit", find, methods=["GET"])
