"""``/sandboxes/:id/processes``: background commands. Those that are waited for are in ``execution``."""

from __future__ import annotations

from quart import Response
from quart_trio import QuartTrio

from nsbox.api import schema, views
from nsbox.api.middleware import BASE
from nsbox.api.routing import call, reply
from nsbox.api.services import Services

_START = schema.Reader(schema.StartProcess)
_NONE: frozenset[str] = frozenset()


def add(app: QuartTrio, services: Services) -> None:
    """Add the routes."""

    async def start(sandbox_id: str) -> Response:
        asked = call(_NONE)
        spec = _START.read(asked.body).spec()
        return reply(views.process(await services.commands.start(asked.owner, sandbox_id, spec)), 201)

    async def get_all(sandbox_id: str) -> Response:
        processes = await services.commands.list(call(_NONE).owner, sandbox_id)
        return reply([views.process(process) for process in processes])

    async def kill_all(sandbox_id: str) -> Response:
        return reply({"killed": await services.commands.kill_all(call(_NONE).owner, sandbox_id)})

    one = f"{BASE}/sandboxes/<sandbox_id>"
    app.add_url_rule(f"{one}/processes", "start_process", start, methods=["POST"])
    app.add_url_rule(f"{one}/processes", "list_processes", get_all, methods=["GET"])
    app.add_url_rule(f"{one}/processes", "kill_processes", kill_all, methods=["DELETE"])
