"""``/sandboxes/:id/files`` in JSON: read, list, write, remove. Streams: ``uploads`` and ``downloads``."""

from __future__ import annotations

from nsbox.api import answers, parameters, schema, views
from nsbox.api.asked import Asked
from nsbox.api.bodies import JsonBodies
from nsbox.api.middleware import BASE, RawRoute
from nsbox.api.quick import Answer, Way
from nsbox.api.quick import route as quick
from nsbox.api.services import Services
from nsbox.model.sandbox import Encoding
from nsbox.settings import Settings

_WRITE = schema.Reader(schema.WriteFile)
_GET = parameters.names(parameters.GET_FILE)
_PUT = parameters.names((parameters.PATH,))
_DELETE = parameters.names(parameters.REMOVE_FILE)


def route(services: Services, bodies: JsonBodies, settings: Settings) -> RawRoute:
    """The route, behind those of ``uploads`` and ``downloads``: it takes what they leave."""

    async def get(asked: Asked, sandbox_id: str) -> Answer:
        path = parameters.PATH.of(asked.query)
        parameters.RAW_FILE.of(asked.query)  # true is served beside Quart; what is neither is refused here
        recursive = parameters.RECURSIVE.of(asked.query)
        if parameters.LIST.of(asked.query):
            found = await services.files.list(asked.owner, sandbox_id, path, recursive)
            return Answer(views.listing(path, found))
        encoding = parameters.FILE_ENCODING.of(asked.query)
        wanted = None if encoding is None else Encoding(encoding)
        data = await services.files.read(asked.owner, sandbox_id, path, settings.max_json_file_bytes)
        return Answer(views.file_content(path, data, wanted))

    async def put(asked: Asked, sandbox_id: str) -> Answer:
        path = parameters.PATH.of(asked.query)
        wish = _WRITE.read(asked.body)
        data = wish.data(settings.max_json_file_bytes)
        size = await services.files.write(asked.owner, sandbox_id, path, data, wish.permissions())
        return Answer(answers.WrittenView(**views.path_view(path), written=True, size=size))

    async def delete(asked: Asked, sandbox_id: str) -> Answer:
        path = parameters.PATH.of(asked.query)
        await services.files.remove(asked.owner, sandbox_id, path, parameters.RECURSIVE.of(asked.query))
        return Answer(answers.DeletedView(**views.path_view(path), deleted=True))

    return quick(
        f"{BASE}/sandboxes/<sandbox_id>/files",
        bodies,
        Way("GET", "read_file", _GET, get),
        Way("PUT", "write_file", _PUT, put),
        Way("DELETE", "remove_file", _DELETE, delete),
    )
