"""``/sandboxes/:id/ports``: expose, list, take away, and links to what is not public."""

from __future__ import annotations

from quart import Response
from quart_trio import QuartTrio

from nsbox.api import answers, schema, views
from nsbox.api.middleware import BASE
from nsbox.api.routing import call, reply
from nsbox.api.services import Services
from nsbox.model.errors import Code, Problem

_EXPOSE = schema.Reader(schema.ExposePort)
_LINK = schema.Reader(schema.MakeLink)
_NONE: frozenset[str] = frozenset()


def add(app: QuartTrio, services: Services) -> None:
    """Add the routes."""

    async def expose(sandbox_id: str) -> Response:
        asked = call(_NONE)
        spec = _EXPOSE.read(asked.body).spec()
        exposed, new = await services.ports.expose(asked.owner, sandbox_id, spec)
        return reply(views.port(exposed), 201 if new else 200)

    async def get_all(sandbox_id: str) -> Response:
        exposed = await services.ports.list(call(_NONE).owner, sandbox_id)
        return reply([views.port(one) for one in exposed])

    async def remove(sandbox_id: str, port: str) -> Response:
        asked, number = call(_NONE), _number(port)
        await services.ports.remove(asked.owner, sandbox_id, number)
        return reply(answers.RemovedPortView(port=number, deleted=True))

    async def link(sandbox_id: str, port: str) -> Response:
        asked, number = call(_NONE), _number(port)
        seconds = _LINK.read(asked.body).seconds()
        return reply(views.link(await services.ports.link(asked.owner, sandbox_id, number, seconds)), 201)

    ports = f"{BASE}/sandboxes/<sandbox_id>/ports"
    app.add_url_rule(ports, "expose_port", expose, methods=["POST"])
    app.add_url_rule(ports, "list_ports", get_all, methods=["GET"])
    app.add_url_rule(f"{ports}/<port>", "remove_port", remove, methods=["DELETE"])
    app.add_url_rule(f"{ports}/<port>/links", "link_port", link, methods=["POST"])


def _number(text: str) -> int:
    """A port in a path. Digits of ASCII only, since int() takes more than is meant."""
    if not (text.isascii() and text.isdigit() and len(text) <= 5):
        raise Problem(Code.INVALID_FIELD, "a port is a number from 1 to 65535", field="port")
    return schema.check_port(int(text), "port")
