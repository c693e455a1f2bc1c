"""Downloads by a page in a browser. To have the browser save a file of any size, rather than hold it in
memory, a page must give it an address, and with an address goes no Authorization header. So the page asks for
a ticket first, with its key: good for one download of one thing, once, and soon (ADR 0074).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import quote, quote_from_bytes

from quart import Response
from quart_trio import QuartTrio

from nsbox.api import answers, parameters, query
from nsbox.api.admission import Admission
from nsbox.api.exchange import Exchange
from nsbox.api.middleware import BASE, RawRoute
from nsbox.api.routing import call, reply
from nsbox.api.services import Keys, Services
from nsbox.api.tickets import KEEP_S, OneUse
from nsbox.model.account import Caller
from nsbox.model.errors import Code, Problem

#: Not below ``BASE``: the gate asks for a key there.
PATH = "/download"
_TICKET = frozenset({"ticket"})
_FILE = parameters.names(parameters.TICKET_OF_FILE)
_SNAPSHOT = parameters.names((parameters.FORMAT,))
_IMAGE = parameters.names(parameters.EXPORT_IMAGE)
#: What is saved is a sandbox's. If a browser showed it after all, it would be in a box of its own.
_SANDBOXED = (b"content-security-policy", b"sandbox; default-src 'none'")


class _Promise(NamedTuple):
    caller: Caller
    path: str
    query: bytes


class Saving:
    """The tickets of downloads."""

    def __init__(self) -> None:
        self._made: OneUse[_Promise] = OneUse()

    def make(self, caller: Caller, path: str, asked: bytes) -> str:
        """For ``GET path?asked``, which must be a raw route."""
        return self._made.make(_Promise(caller, path, asked))

    def take(self, ticket: str) -> _Promise:
        """What it is for; it is used up. Raises ``INVALID_KEY``."""
        found = self._made.take(ticket)
        if found is None:
            raise Problem(
                Code.INVALID_KEY,
                "the ticket is not known, or is used up",
                remedy="ask for a new one: POST …/ticket",
            )
        return found

    async def serve(
        self, raw_routes: Sequence[RawRoute], keys: Keys, admission: Admission, exchange: Exchange
    ) -> None:
        """``GET /download?ticket=…``."""
        if exchange.scope["method"] != "GET":
            raise Problem(Code.METHOD_NOT_ALLOWED, "a download is asked for with GET", allowed=["GET"])
        exchange.common = [*exchange.common, _SANDBOXED]
        asked = query.parse(exchange.scope["query_string"], _TICKET)
        try:
            found = self.take(asked.get("ticket", b"").decode("ascii", "replace"))
        except Problem:
            admission.failed(exchange)
            raise
        if keys.caller(found.caller.key.id) is None:
            raise Problem(Code.INVALID_KEY, "the key that the ticket was made with is in force no more")
        admission.enter(exchange, found.caller)
        exchange.caller = found.caller
        exchange.scope |= {
            "path": found.path,
            "raw_path": found.path.encode("ascii"),
            "query_string": found.query,
        }
        raw = next(route for route in raw_routes if route.takes(exchange))
        await raw.serve(exchange, found.caller)


def add(app: QuartTrio, services: Services, saving: Saving) -> None:
    """Add the routes that make tickets. What is not there is told here, where a page can show it."""

    def give(caller: Caller, path: str, asked: str) -> Response:
        ticket = saving.make(caller, path, asked.encode("ascii"))
        made = answers.DownloadView(ticket=ticket, path=f"{PATH}?ticket={ticket}", expiresInS=KEEP_S)
        return reply(made, 201)

    async def of_file(sandbox_id: str) -> Response:
        asked = call(_FILE)
        path = parameters.PATH.of(asked.query)
        async with services.files.open(asked.owner, sandbox_id, path):
            pass
        told = f"raw=true&path={quote_from_bytes(path, safe='')}"
        return give(asked.caller, f"{BASE}/sandboxes/{sandbox_id}/files", told)

    async def of_snapshot(snapshot_id: str) -> Response:
        asked = call(_SNAPSHOT)
        services.snapshots.get(asked.owner, snapshot_id)
        return give(asked.caller, f"{BASE}/snapshots/{snapshot_id}/export", _form(asked.query))

    async def of_image() -> Response:
        asked = call(_IMAGE)
        name = parameters.IMAGE.of(asked.query)
        services.images.find(name)
        told = f"image={quote(name, safe='')}&{_form(asked.query)}"
        return give(asked.caller, f"{BASE}/images/export", told)

    of_files = f"{BASE}/sandboxes/<sandbox_id>/files/ticket"
    of_snapshots = f"{BASE}/snapshots/<snapshot_id>/export/ticket"
    app.add_url_rule(of_files, "ticket_of_file", of_file, methods=["POST"])
    app.add_url_rule(of_snapshots, "ticket_of_snapshot", of_snapshot, methods=["POST"])
    app.add_url_rule(f"{BASE}/images/export/ticket", "ticket_of_image", of_image, methods=["POST"])


def _form(asked: query.Query) -> str:
    return f"format={parameters.FORMAT.of(asked)}"
