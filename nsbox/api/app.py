"""The application: Quart's routes, the streams beside them, the gate before them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import partial

from quart import Response
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from nsbox.api import (
    accounts,
    assets,
    attach,
    audit,
    caps,
    commands,
    downloads,
    execution,
    exports,
    files,
    images,
    imports,
    logs,
    metrics,
    network,
    ports,
    pulling,
    pushing,
    reference,
    sandboxes,
    saving,
    snapshots,
    stdin,
    uploads,
    usage,
    websocket,
)
from nsbox.api.admission import Admission
from nsbox.api.bodies import Bodies
from nsbox.api.exchange import Exchange
from nsbox.api.inputs import Inputs
from nsbox.api.middleware import Gate, RawRoute
from nsbox.api.ongoing import Ongoing
from nsbox.api.operations import match
from nsbox.api.problems import tell
from nsbox.api.services import Services
from nsbox.api.tickets import Tickets
from nsbox.model.errors import Code, Problem
from nsbox.settings import Settings


def create_app(services: Services, settings: Settings) -> Gate:
    """The ASGI application for ``api.server.serve``."""
    admission = Admission(services.keys, settings)
    limits = caps.table(settings)
    bodies, inputs = Bodies(limits, services.reserve), Inputs(services.reserve)
    raw_routes = [
        execution.route(services.commands, bodies, inputs, settings),
        *sandboxes.routes(services, bodies, settings),
        logs.route(services.commands),
        stdin.route(services.commands, bodies, inputs),
        uploads.route(services.files, limits[caps.RAW_FILE]),
        downloads.route(services.files),
        *files.routes(services, bodies, settings),
        pulling.images_route(services, bodies),
        pulling.templates_route(services, bodies),
        imports.route(services, limits["import_image"]),
        pushing.images_route(services, bodies),
        pushing.snapshots_route(services, bodies),
        exports.snapshots_route(services),
        exports.images_route(services),
    ]

    async def scrape(exchange: Exchange) -> None:
        await metrics.scrape(exchange, services, admission, settings.metrics_readers)

    tickets, saved = Tickets(), saving.Saving()
    recorder = audit.Recorder(services.audit, admission)
    ongoing = Ongoing(services.keys)
    sockets = attach.Attach(services, admission, tickets, recorder, ongoing)
    routes = _routes(services, settings, tickets, saved)
    outside: dict[str, Callable[[Exchange], Awaitable[None]]] = {
        **(assets.routes() if settings.dashboard else {}),
        metrics.PATH: scrape,
        saving.PATH: partial(saved.serve, raw_routes, services.keys, admission),
        **reference.routes(settings),
    }
    gate = Gate(
        routes,  # type: ignore[arg-type]
        _rule_of(routes),
        raw_routes,
        services,
        admission,
        recorder,
        bodies,
        sockets,
        ongoing,
        outside,
    )
    gate.rules = frozenset(_rules(routes, raw_routes))
    return gate


def _rules(app: QuartTrio, raw_routes: list[RawRoute]) -> Iterator[tuple[str, str]]:
    """HEAD is what GET is, and Quart adds it by itself."""
    yield "GET", websocket.RULE
    for raw in raw_routes:
        for method in set(raw.methods) - {"HEAD"}:
            yield method, raw.rule
    for rule in app.url_map.iter_rules():
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            yield method, rule.rule


def _routes(services: Services, settings: Settings, tickets: Tickets, saved: saving.Saving) -> QuartTrio:
    app = QuartTrio(__name__, static_folder=None)
    # The gate has read the body, and the connection bounds how slowly an answer may be taken. Quart's
    # own limit on an answer would cut it silently.
    app.config.update(BODY_TIMEOUT=None, RESPONSE_TIMEOUT=None, PROVIDE_AUTOMATIC_OPTIONS=False)
    app.url_map.merge_slashes = False  # it would answer `//` with a redirect
    app.url_map.redirect_defaults = False
    commands.add(app, services, settings, tickets)
    images.add(app, services)
    ports.add(app, services)
    network.add(app, services, settings)
    snapshots.add(app, services, settings)
    metrics.add(app, services)
    saving.add(app, services, saved)
    usage.add(app, services)
    accounts.add(app, services, settings.default_plan)
    audit.add(app, services)
    app.register_error_handler(Exception, _error)
    return app


def _rule_of(app: QuartTrio) -> Callable[[str, str], str]:
    """What Quart would find, asked before it is: of a path without a route it then never hears. It knows a
    part of the routes; which methods a path has, the registry knows."""
    adapter = app.url_map.bind("")

    def rule_of(method: str, path: str) -> str:
        try:
            rule, _ = adapter.match(path, method, return_rule=True)
        except HTTPException as error:
            match.check(method, path)
            raise Problem(Code.ROUTE_NOT_FOUND, "there is no such route") from error
        return rule.rule

    return rule_of


async def _error(error: Exception) -> Response:
    told = tell(error)
    response = Response(told.body, told.status)
    for name, value in told.headers:
        response.headers[name.decode()] = value.decode("latin-1")
    return response
