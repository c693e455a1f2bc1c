"""``/snapshots``, and what is below a sandbox: take, fork, and what has changed. Exports are in
``exports``."""

from __future__ import annotations

import msgspec
from quart import Response
from quart_trio import QuartTrio

from nsbox.api import answers, idempotency, parameters, schema, views
from nsbox.api.asked import Asked
from nsbox.api.middleware import BASE
from nsbox.api.routing import call, reply
from nsbox.api.services import Services
from nsbox.model.request import Request
from nsbox.model.snapshot import Snapshot
from nsbox.settings import Settings

_TAKE = schema.Reader(schema.TakeSnapshot)
_FORK = schema.Reader(schema.ForkSandbox)
_NONE: frozenset[str] = frozenset()
_PAGE = parameters.names(parameters.DIFF)


def add(app: QuartTrio, services: Services, settings: Settings) -> None:
    """Add the routes."""
    snapshots, differences = services.snapshots, services.differences

    def view(record: Snapshot) -> answers.SnapshotView:
        return views.snapshot(record, durable=snapshots.is_durable(record))

    async def take(sandbox_id: str) -> Response:
        asked = call(_NONE)
        wish = _TAKE.read(asked.body)
        wish.check()
        once = _once(asked, f"snapshot {sandbox_id}", wish)
        record = await snapshots.take(
            asked.owner, sandbox_id, wish.name, must_stand=wish.consistent, request=once
        )
        return reply(view(record), 201, location=f"{BASE}/snapshots/{record.id}")

    async def of_sandbox(sandbox_id: str) -> Response:
        found = await snapshots.of_sandbox(call(_NONE).owner, sandbox_id)
        return reply([view(record) for record in found])

    async def fork(sandbox_id: str) -> Response:
        asked = call(_NONE)
        wish = _FORK.read(asked.body)
        count = wish.number()
        source = await services.sandboxes.get(asked.owner, sandbox_id)
        spec = msgspec.structs.replace(wish.spec(settings, source), key=asked.key)
        once = _once(asked, f"fork {sandbox_id}", wish)
        made, cut = await snapshots.fork(asked.owner, sandbox_id, count, spec, once)
        assert cut.cut is not None
        network = services.network.state()
        told: answers.ForkedView = {
            "sandboxes": [views.sandbox(record, network) for record in made],
            "processes": cut.standstill,
            "changed": cut.cut.changed,
            "sizeBytes": cut.cut.bytes,
        }
        return reply(told, 201)

    async def get_all() -> Response:
        return reply([view(record) for record in snapshots.of_owner(call(_NONE).owner)])

    async def get(snapshot_id: str) -> Response:
        return reply(view(snapshots.get(call(_NONE).owner, snapshot_id)))

    async def remove(snapshot_id: str) -> Response:
        record = await snapshots.remove(call(_NONE).owner, snapshot_id)
        return reply(answers.RemovedSnapshotView(id=record.id, removed=True))

    async def diff_sandbox(sandbox_id: str) -> Response:
        asked = call(_PAGE)
        found = await differences.of_sandbox(asked.owner, sandbox_id, *_page(asked))
        return reply(views.changes(found))

    async def diff_snapshot(snapshot_id: str) -> Response:
        asked = call(_PAGE)
        record = snapshots.get(asked.owner, snapshot_id)
        return reply(views.changes(await differences.of_snapshot(record, *_page(asked))))

    box, one = f"{BASE}/sandboxes/<sandbox_id>", f"{BASE}/snapshots/<snapshot_id>"
    app.add_url_rule(f"{box}/snapshots", "take_snapshot", take, methods=["POST"])
    app.add_url_rule(f"{box}/snapshots", "snapshots_of_sandbox", of_sandbox, methods=["GET"])
    app.add_url_rule(f"{box}/fork", "fork_sandbox", fork, methods=["POST"])
    app.add_url_rule(f"{box}/diff", "diff_sandbox", diff_sandbox, methods=["GET"])
    app.add_url_rule(f"{BASE}/snapshots", "list_snapshots", get_all, methods=["GET"])
    app.add_url_rule(one, "get_snapshot", get, methods=["GET"])
    app.add_url_rule(one, "remove_snapshot", remove, methods=["DELETE"])
    app.add_url_rule(f"{one}/diff", "diff_snapshot", diff_snapshot, methods=["GET"])


def _once(asked: Asked, kind: str, wish: msgspec.Struct) -> Request | None:
    return idempotency.request(asked.repeatable, kind, wish)


def _page(asked: Asked) -> tuple[str, int]:
    return parameters.AFTER.of(asked.query), parameters.PAGE.of(asked.query)
