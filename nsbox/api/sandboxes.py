"""``/sandboxes``: create, list, look at, pause, resume, give more or less time, say what it does by
itself, kill."""

from __future__ import annotations

import msgspec

from nsbox.api import answers, idempotency, parameters, schema, views
from nsbox.api.asked import Asked
from nsbox.api.bodies import Bodies
from nsbox.api.middleware import BASE, RawRoute
from nsbox.api.quick import Answer, Way, route
from nsbox.api.services import Services
from nsbox.settings import Settings

_CREATE = schema.Reader(schema.CreateSandbox)
_TIMEOUT = schema.Reader(schema.SetTimeout)
_LIFECYCLE = schema.Reader(schema.SetLifecycle)
_NOTHING = schema.Reader(schema.Nothing)
_NONE: frozenset[str] = frozenset()
_STATUS = parameters.names((parameters.STATUS,))


def routes(services: Services, bodies: Bodies, settings: Settings) -> list[RawRoute]:
    """The routes, ready for the gate."""

    async def create(asked: Asked) -> Answer:
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
        asked_for = idempotency.request(asked.repeatable, "sandbox", wish)
        record = await services.creations.create(
            asked.owner, msgspec.structs.replace(spec, request=asked_for, key=asked.key)
        )
        view = views.sandbox(record, services.network.state())
        return Answer(view, 201, location=f"{BASE}/sandboxes/{record.id}")

    async def get_all(asked: Asked) -> Answer:
        records = await services.sandboxes.list(asked.owner, parameters.STATUS.of(asked.query))
        return Answer([views.sandbox(record, services.network.state()) for record in records])

    async def get(asked: Asked, sandbox_id: str) -> Answer:
        record = await services.sandboxes.get(asked.owner, sandbox_id)
        return Answer(views.sandbox(record, services.network.state()))

    async def kill(asked: Asked, sandbox_id: str) -> Answer:
        return Answer(views.killed(await services.sandboxes.kill(asked.owner, sandbox_id)))

    async def pause(asked: Asked, sandbox_id: str) -> Answer:
        _NOTHING.read(asked.body)
        return Answer(views.paused(*await services.sandboxes.pauses.pause(asked.owner, sandbox_id)))

    async def resume(asked: Asked, sandbox_id: str) -> Answer:
        _NOTHING.read(asked.body)
        return Answer(views.time_left(await services.sandboxes.pauses.resume(asked.owner, sandbox_id)))

    async def timeout(asked: Asked, sandbox_id: str) -> Answer:
        wanted = _TIMEOUT.read(asked.body).milliseconds(settings)
        record = await services.sandboxes.pauses.set_timeout(asked.owner, sandbox_id, wanted)
        return Answer(views.time_left(record))

    async def lifecycle(asked: Asked, sandbox_id: str) -> Answer:
        record = await services.standbys.set(asked.owner, sandbox_id, _LIFECYCLE.read(asked.body).standby())
        told: answers.LifecycleView = {
            "id": record.id,
            "status": record.state,
            **views.standby(record.standby),
        }
        return Answer(told)

    one = f"{BASE}/sandboxes/<sandbox_id>"
    return [
        route(
            f"{BASE}/sandboxes",
            bodies,
            Way("POST", "create_sandbox", _NONE, create),
            Way("GET", "list_sandboxes", _STATUS, get_all),
        ),
        route(
            one,
            bodies,
            Way("GET", "get_sandbox", _NONE, get),
            Way("DELETE", "kill_sandbox", _NONE, kill),
        ),
        route(f"{one}/pause", bodies, Way("POST", "pause_sandbox", _NONE, pause)),
        route(f"{one}/resume", bodies, Way("POST", "resume_sandbox", _NONE, resume)),
        route(f"{one}/timeout", bodies, Way("POST", "set_timeout", _NONE, timeout)),
        route(f"{one}/lifecycle", bodies, Way("PUT", "set_lifecycle", _NONE, lifecycle)),
    ]
