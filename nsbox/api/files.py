"""``/sandboxes/:id/files`` in JSON: write, remove. Reading: ``contents``. Streams: ``uploads``,
``downloads``."""

from __future__ import annotations

import msgspec

from nsbox.api import answers, contents, parameters, schema, views
from nsbox.api.asked import Asked
from nsbox.api.bodies import Bodies
from nsbox.api.middleware import BASE, RawRoute
from nsbox.api.quick import Answer, Way
from nsbox.api.quick import route as quick
from nsbox.api.services import Services
from nsbox.settings import Settings

_WRITE = schema.Reader(schema.WriteFile)
_PUT = parameters.names((parameters.PATH,))
_DELETE = parameters.names(parameters.REMOVE_FILE)


def routes(services: Services, bodies: Bodies, settings: Settings) -> list[RawRoute]:
    """The routes, behind those of ``uploads`` and ``downloads``: they take what these leave."""

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

    whole = quick(
        f"{BASE}/sandboxes/<sandbox_id>/files",
        bodies,
        Way("PUT", "write_file", _PUT, put),
        Way("DELETE", "remove_file", _DELETE, delete),
    )
    reading = contents.route(services.files, settings.max_json_file_bytes)
    # Of another method it is told what the path takes, by whichever route.
    return [reading, msgspec.structs.replace(whole, methods=(*whole.methods, *reading.methods))]
