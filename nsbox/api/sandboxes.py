"""``/sandboxes``: create, list, look at, pause, resume, give more or less time, say what it does by
itself, kill."""

from __future__ import annotations

import msgspec
from quart import Response, request
from quart_trio import QuartTrio

from nsbox.api import answers, idempotency, parameters, schema, views
from nsbox.api.middleware import BASE
from nsbox.api.routing import call, reply
from nsbox.api.services import Services
from nsbox.settings import Settings

_CREATE = schema.Reader(schema.CreateSandbox)
_TIMEOUT = schema.Reader(schema.SetTimeout)
_LIFECYCLE = schema.Reader(schema.SetLifecycle)
_NOTHING = schema.Reader(schema.Nothing)
_NONE: frozenset[str] = frozenset()
_STATUS = parameters.names((parameters.STATUS,))


def add(app: QuartTrio, services: Services, settings: Settings) -> None:
    """Add the routes."""

    async def create() -> Response:
        asked = call(_NONE)
        wish = _CREATE.read(asked.body)
        wish.check_references()
        bounds = services.plans.settings_for(asked.owner)
        wish.limits(bounds)  # values that are wrong are told before images that are missing
        if wish.snapshot is not None:
            snapshot = services.snapshots.get(asked.owner, wish.snapshot)
            spec = wish.spec(bounds, snapshot.base.name, snapshot)
            spec = msgspec.structs.replace(spec, base=snapshot.base, origin=snapshot.id)
        else:
            spec = wish.spec(bounds, services.templates.resolve(wish.template_id, wish.image))
        # What is compared is the wish as it was sent: defaults may be others by then.
        asked_for = idempotency.request(request.headers.get(idempotency.HEADER), "sandbox", wish)
        record = await services.creations.create(
            asked.owner, msgspec.structs.replace(spec, request=asked_for, key=asked.key)
        )
        return reply(
            views.sandbox(record, services.network.state()), 201, location=f"{BASE}/sandboxes/{record.id}"
        )

    async def get_all() -> Response:
        asked = call(_STATUS)
        records = await services.sandboxes.list(asked.owner, parameters.STATUS.of(asked.query))
        return reply([views.sandbox(record, services.network.state()) for record in records])

    async def get(sandbox_id: str) -> Response:
        record = await services.sandboxes.get(call(_NONE).owner, sandbox_id)
        return reply(views.sandbox(record, services.network.state()))

    async def kill(sandbox_id: str) -> Response:
        return reply(views.killed(await services.sandboxes.kill(call(_NONE).owner, sandbox_id)))

    async def pause(sandbox_id: str) -> Response:
        asked = call(_NONE)
        _NOTHING.read(asked.body)
        return reply(views.paused(*await services.sandboxes.pauses.pause(asked.owner, sandbox_id)))

    async def resume(sandbox_id: str) -> Response:
        asked = call(_NONE)
        _NOTHING.read(asked.body)
        return reply(views.time_left(await services.sandboxes.pauses.resume(asked.owner, sandbox_id)))

    async def timeout(sandbox_id: str) -> Response:
        asked = call(_NONE)
        wanted = _TIMEOUT.read(asked.body).milliseconds(settings)
        record = await services.sandboxes.pauses.set_timeout(asked.owner, sandbox_id, wanted)
        return reply(views.time_left(record))

    async def lifecycle(sandbox_id: str) -> Response:
        asked = call(_NONE)
        record = await services.standbys.set(asked.owner, sandbox_id, _LIFECYCLE.read(asked.body).standby())
        told: answers.LifecycleView = {
            "id": record.id,
            "status": record.state,
            **views.standby(record.standby),
        }
        return reply(told)

    one = "/sandboxes/<sandbox_id>"
    app.add_url_rule(f"{BASE}/sandboxes", "create_sandbox", create, methods=["POST"])
    app.add_url_rule(f"{BASE}/sandboxes", "list_sandboxes", get_all, methods=["GET"])
    app.add_url_rule(BASE + one, "get_sandbox", get, methods=["GET"])
    app.add_url_rule(BASE + one, "kill_sandbox", kill, methods=["DELETE"])
    app.add_url_rule(f"{BASE}{one}/pause", "pause_sandbox", pause, methods=["POST"])
    app.add_url_rule(f"{BASE}{one}/resume", "resume_sandbox", resume, methods=["POST"])
    app.add_url_rule(f"{BASE}{one}/timeout", "set_timeout", timeout, methods=["POST"])
    app.add_url_rule(f"{BASE}{one}/lifecycle", "set_lifecycle", lifecycle, methods=["PUT"])
