"""``/sandboxes``: create, list, look at, kill."""

from __future__ import annotations

import trio
from quart import Response
from quart_trio import QuartTrio

from nsbox.api import query, schema, views
from nsbox.api.middleware import BASE
from nsbox.api.routing import call, reply
from nsbox.api.services import Services
from nsbox.model.errors import Code, Problem
from nsbox.model.lifecycle import State
from nsbox.settings import Settings

_CREATE = schema.Reader(schema.CreateSandbox)
_NONE: frozenset[str] = frozenset()
_LIVING = frozenset(state for state in State if state.alive)
_ALL = frozenset(State)


def add(app: QuartTrio, services: Services, settings: Settings) -> None:
    """Add the routes."""

    async def create() -> Response:
        asked = call(_NONE)
        wish = _CREATE.read(asked.body)
        wish.check_references()
        wish.limits(settings)  # values that are wrong are told before images that are missing
        template = services.templates.resolve(wish.template_id, wish.image)
        record = await services.sandboxes.create(asked.owner, wish.spec(settings, template))
        try:
            await services.commands.begin(record)
        except BaseException:
            with trio.CancelScope(shield=True):
                await services.sandboxes.kill(asked.owner, record.id)
            raise
        return reply(
            views.sandbox(record, services.network.state()), 201, location=f"{BASE}/sandboxes/{record.id}"
        )

    async def get_all() -> Response:
        asked = call(frozenset({"status"}))
        records = await services.sandboxes.list(asked.owner, _states(query.text(asked.query, "status")))
        return reply([views.sandbox(record, services.network.state()) for record in records])

    async def get(sandbox_id: str) -> Response:
        record = await services.sandboxes.get(call(_NONE).owner, sandbox_id)
        return reply(views.sandbox(record, services.network.state()))

    async def kill(sandbox_id: str) -> Response:
        return reply(views.killed(await services.sandboxes.kill(call(_NONE).owner, sandbox_id)))

    one = "/sandboxes/<sandbox_id>"
    app.add_url_rule(f"{BASE}/sandboxes", "create_sandbox", create, methods=["POST"])
    app.add_url_rule(f"{BASE}/sandboxes", "list_sandboxes", get_all, methods=["GET"])
    app.add_url_rule(BASE + one, "get_sandbox", get, methods=["GET"])
    app.add_url_rule(BASE + one, "kill_sandbox", kill, methods=["DELETE"])


def _states(status: str | None) -> frozenset[State]:
    """``?status=running,paused``; ``all`` for every one; the living ones when nothing is said."""
    if status is None:
        return _LIVING
    if status == "all":
        return _ALL
    try:
        return frozenset(State(name) for name in status.split(","))
    except ValueError as error:
        known = ", ".join(State)
        raise Problem(Code.INVALID_FIELD, f"status is all, or some of: {known}", field="status") from error
