"""``/sandboxes/:id/files`` in JSON: read, list, write, remove. Streams: ``uploads`` and ``downloads``."""

from __future__ import annotations

from quart import Response
from quart_trio import QuartTrio

from nsbox.api import query, schema, views
from nsbox.api.middleware import BASE
from nsbox.api.routing import Asked, call, reply
from nsbox.api.services import Services
from nsbox.model.errors import Code, Problem
from nsbox.model.sandbox import Encoding
from nsbox.settings import Settings

_WRITE = schema.Reader(schema.WriteFile)
_GET = frozenset({"path", "list", "recursive", "encoding", "raw"})
_PUT = frozenset({"path"})
_DELETE = frozenset({"path", "recursive"})


def add(app: QuartTrio, services: Services, settings: Settings) -> None:
    """Add the routes."""

    async def get(sandbox_id: str) -> Response:
        asked = call(_GET)
        path = query.path_of(asked.query)
        query.flag(asked.query, "raw")  # true is served beside Quart; what is neither is refused here
        recursive = query.flag(asked.query, "recursive")
        if query.flag(asked.query, "list"):
            found = await services.files.list(asked.owner, sandbox_id, path, recursive)
            return reply(views.listing(path, found))
        wanted = _encoding(asked)
        data = await services.files.read(asked.owner, sandbox_id, path, settings.max_json_file_bytes)
        return reply(views.file_content(path, data, wanted))

    async def put(sandbox_id: str) -> Response:
        asked = call(_PUT)
        path = query.path_of(asked.query)
        wish = _WRITE.read(asked.body)
        data = wish.data(settings.max_json_file_bytes)
        size = await services.files.write(asked.owner, sandbox_id, path, data, wish.permissions())
        return reply({**views.path_view(path), "written": True, "size": size})

    async def delete(sandbox_id: str) -> Response:
        asked = call(_DELETE)
        path = query.path_of(asked.query)
        await services.files.remove(asked.owner, sandbox_id, path, query.flag(asked.query, "recursive"))
        return reply({**views.path_view(path), "deleted": True})

    files = f"{BASE}/sandboxes/<sandbox_id>/files"
    app.add_url_rule(files, "read_file", get, methods=["GET"])
    app.add_url_rule(files, "write_file", put, methods=["PUT"])
    app.add_url_rule(files, "remove_file", delete, methods=["DELETE"])


def _encoding(asked: Asked) -> Encoding | None:
    name = query.text(asked.query, "encoding")
    try:
        return None if name is None else Encoding(name)
    except ValueError as error:
        raise Problem(Code.INVALID_FIELD, "encoding is utf8 or base64", field="encoding") from error
