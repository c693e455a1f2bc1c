"""The application: Quart's routes, the streams beside them, the gate before them."""

from __future__ import annotations

from functools import partial

from quart import Response
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from nsbox.api import (
    assets,
    attach,
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
    sandboxes,
    saving,
    snapshots,
    stdin,
    uploads,
)
from nsbox.api.bodies import JsonBodies
from nsbox.api.exchange import Exchange
from nsbox.api.middleware import Gate
from nsbox.api.problems import tell
from nsbox.api.services import Services
from nsbox.api.tickets import Tickets
from nsbox.model.errors import Code, Problem
from nsbox.settings import Settings


def create_app(services: Services, settings: Settings) -> Gate:
    """The ASGI application for ``api.server.serve``."""
    bodies = JsonBodies(settings.max_json_bytes)
    raw_routes = [
        execution.route(services.commands, bodies, settings),
        logs.route(services.commands),
        stdin.route(services.commands, settings),
        uploads.route(services.files, settings),
        downloads.route(services.files),
        pulling.images_route(services, bodies, settings),
        pulling.templates_route(services, bodies, settings),
        imports.route(services, settings),
        exports.snapshots_route(services),
        exports.images_route(services),
    ]

    async def scrape(exchange: Exchange) -> None:
        await metrics.scrape(exchange, services, settings.metrics_readers)

    tickets, saved = Tickets(), saving.Saving()
    sockets = attach.Attach(services, tickets)
    routes = _routes(services, settings, tickets, saved)
    outside = {
        **(assets.routes() if settings.dashboard else {}),
        metrics.PATH: scrape,
        saving.PATH: partial(saved.serve, raw_routes),
    }
    return Gate(routes, raw_routes, services, bodies, sockets, outside)  # type: ignore[arg-type]


def _routes(services: Services, settings: Settings, tickets: Tickets, saved: saving.Saving) -> QuartTrio:
    app = QuartTrio(__name__, static_folder=None)
    # The gate has read the body, and the connection bounds how slowly an answer may be taken. Quart's
    # own limit on an answer would cut it silently.
    app.config.update(BODY_TIMEOUT=None, RESPONSE_TIMEOUT=None, PROVIDE_AUTOMATIC_OPTIONS=False)
    app.url_map.merge_slashes = False  # it would answer `//` with a redirect
    app.url_map.redirect_defaults = False
    sandboxes.add(app, services, settings)
    commands.add(app, services, tickets)
    files.add(app, services, settings)
    images.add(app, services, settings)
    ports.add(app, services)
    network.add(app, services, settings)
    snapshots.add(app, services, settings)
    metrics.add(app, services)
    saving.add(app, services, saved)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _error)
    return app


async def _error(error: Exception) -> Response:
    told = tell(error)
    response = Response(told.body, told.status)
    for name, value in told.headers:
        response.headers[name.decode()] = value.decode("latin-1")
    return response


async def _http_error(error: HTTPException) -> Response:
    """Only routing makes these: no handler raises any."""
    if isinstance(error, MethodNotAllowed):
        allowed = sorted(error.valid_methods or ())
        detail = f"the route takes {', '.join(allowed)}"
        return await _error(Problem(Code.METHOD_NOT_ALLOWED, detail, allowed=allowed))
    if isinstance(error, NotFound):
        return await _error(Problem(Code.ROUTE_NOT_FOUND, "there is no such route"))
    return await _error(error)
