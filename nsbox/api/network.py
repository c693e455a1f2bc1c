"""``/sandboxes/:id/network``: what a sandbox reaches, and what was refused to it."""

from __future__ import annotations

from quart import Response
from quart_trio import QuartTrio

from nsbox.api import schema, views
from nsbox.api.middleware import BASE
from nsbox.api.routing import call, reply
from nsbox.api.services import Services
from nsbox.settings import Settings

_SET = schema.Reader(schema.SetNetwork)
_NONE: frozenset[str] = frozenset()


def add(app: QuartTrio, services: Services, settings: Settings) -> None:
    """Add the routes."""

    async def get(sandbox_id: str) -> Response:
        record = await services.sandboxes.get(call(_NONE).owner, sandbox_id)
        return reply(views.network_policy(record.network, services.network.state()))

    async def put(sandbox_id: str) -> Response:
        asked = call(_NONE)
        policy = _SET.read(asked.body).policy(settings)
        record = await services.network.set(asked.owner, sandbox_id, policy)
        return reply(views.network_policy(record.network, services.network.state()))

    async def log(sandbox_id: str) -> Response:
        return reply(views.refusals(await services.network.log(call(_NONE).owner, sandbox_id)))

    one = f"{BASE}/sandboxes/<sandbox_id>/network"
    app.add_url_rule(one, "get_network", get, methods=["GET"])
    app.add_url_rule(one, "set_network", put, methods=["PUT"])
    app.add_url_rule(f"{one}/log", "network_log", log, methods=["GET"])
