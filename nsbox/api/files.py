"""``/sandboxes/:id/files`` in JSON: write, remove. Reading: ``contents``. Streams: ``uploads``, ``downloads``."""

from __future__ import annotations

from quart import Response
from quart_trio import QuartTrio

from nsbox.api import answers, parameters, schema, views
from nsbox.api.middleware import BASE
from nsbox.api.routing import call, reply
from nsbox.api.services import Services
from nsbox.settings import Settings

_WRITE = schema.Reader(schema.WriteFile)
_PUT = parameters.names((parameters.PATH,))
_DELETE = parameters.names(parameters.REMOVE_FILE)


def add(app: QuartTrio, services: Services, settings: Settings) -> None:
    """Add the routes."""

    async def put(sandbox_id: str) -> Response:
        asked = call(_PUT)
        path = parameters.PATH.of(asked.query)
        wish = _WRITE.read(asked.body)
        data = wish.data(settings.max_json_file_bytes)
        size = await services.files.write(asked.owner, sandbox_id, path, data, wish.permissions())
        return reply(answers.WrittenView(**views.path_view(path), written=True, size=size))

    async def delete(sandbox_id: str) -> Response:
        asked = call(_DELETE)
        path = parameters.PATH.of(asked.query)
        await services.files.remove(asked.owner, sandbox_id, path, parameters.RECURSIVE.of(asked.query))
        return reply(answers.DeletedView(**views.path_view(path), deleted=True))

    files = f"{BASE}/sandboxes/<sandbox_id>/files"
    app.add_url_rule(files, "write_file", put, methods=["PUT"])
    app.add_url_rule(files, "remove_file", delete, methods=["DELETE"])
