"""``/sandboxes/:id/processes``: background commands. Those that are waited for are in ``execution``."""

from __future__ import annotations

from quart import Response
from quart_trio import QuartTrio

from nsbox.api import answers, idempotency, parameters, schema, views
from nsbox.api.middleware import BASE
from nsbox.api.routing import call, reply
from nsbox.api.services import Services
from nsbox.api.tickets import KEEP_S, PROTOCOL, Tickets
from nsbox.settings import Settings

_START = schema.Reader(schema.StartProcess)
_NONE: frozenset[str] = frozenset()
_ALL = parameters.names((parameters.EVERY,))
_TIMEOUT = parameters.names((parameters.WAIT_MS,))
_TICKET = schema.Reader(schema.MakeTicket)
_SIGNAL = schema.Reader(schema.SendSignal)


def add(app: QuartTrio, services: Services, settings: Settings, tickets: Tickets) -> None:
    """Add the routes."""

    async def start(sandbox_id: str) -> Response:
        asked = call(_NONE)
        body = _START.read(asked.body)
        spec, when = body.spec(settings), body.ready()
        wish = idempotency.request(asked.repeatable, "process", spec)
        process = await services.commands.start(asked.owner, sandbox_id, spec, wish)
        location = f"{BASE}/sandboxes/{sandbox_id}/processes/{process.id}"
        if when is None:
            return reply(views.process(process), 201, location=location)
        ready = await services.readiness.wait(asked.owner, sandbox_id, process.id, when)
        process = await services.commands.get(asked.owner, sandbox_id, process.id)
        return reply(answers.StartedView(**views.process(process), ready=ready), 201, location=location)

    async def get(sandbox_id: str, key: str) -> Response:
        return reply(views.process(await services.commands.get(call(_NONE).owner, sandbox_id, key)))

    async def wait(sandbox_id: str, key: str) -> Response:
        asked = call(_TIMEOUT)
        seconds = parameters.WAIT_MS.of(asked.query) / 1000
        return reply(views.process(await services.commands.wait(asked.owner, sandbox_id, key, seconds)))

    async def signal(sandbox_id: str, key: str) -> Response:
        asked = call(_NONE)
        number = _SIGNAL.read(asked.body).number()
        return reply(views.process(await services.commands.signal(asked.owner, sandbox_id, key, number)))

    async def end(sandbox_id: str, key: str) -> Response:
        return reply(views.process(await services.commands.end(call(_NONE).owner, sandbox_id, key)))

    async def get_all(sandbox_id: str) -> Response:
        asked = call(_ALL)
        everything = parameters.EVERY.of(asked.query)
        processes = await services.commands.list(asked.owner, sandbox_id, everything)
        return reply([views.process(process) for process in processes])

    async def kill_all(sandbox_id: str) -> Response:
        return reply(
            answers.KilledProcessesView(
                killed=await services.commands.kill_all(call(_NONE).owner, sandbox_id)
            )
        )

    async def ticket(sandbox_id: str, key: str) -> Response:
        asked = call(_NONE)
        origin = _TICKET.read(asked.body or b"{}").origin
        await services.commands.get(asked.owner, sandbox_id, key)
        made = tickets.make(asked.caller, sandbox_id, key, origin)
        protocols = [PROTOCOL, f"{PROTOCOL}.{made}"]
        return reply(answers.TicketView(ticket=made, protocols=protocols, expiresInS=KEEP_S), 201)

    one = f"{BASE}/sandboxes/<sandbox_id>"
    app.add_url_rule(f"{one}/processes", "start_process", start, methods=["POST"])
    app.add_url_rule(f"{one}/processes", "list_processes", get_all, methods=["GET"])
    app.add_url_rule(f"{one}/processes/<key>", "get_process", get, methods=["GET"])
    app.add_url_rule(f"{one}/processes/<key>", "end_process", end, methods=["DELETE"])
    app.add_url_rule(f"{one}/processes/<key>/wait", "wait_process", wait, methods=["GET"])
    app.add_url_rule(f"{one}/processes/<key>/signal", "signal_process", signal, methods=["POST"])
    app.add_url_rule(f"{one}/processes/<key>/ticket", "make_ticket", ticket, methods=["POST"])
    app.add_url_rule(f"{one}/processes", "kill_processes", kill_all, methods=["DELETE"])
