"""``/images`` and ``/templates``: look, remove, prune. What takes long is in ``pulling`` and ``imports``."""

from __future__ import annotations

from quart import Response, request
from quart_trio import QuartTrio

from nsbox.api import answers, schema, views
from nsbox.api.middleware import BASE
from nsbox.api.operations import match
from nsbox.api.routing import call, reply
from nsbox.api.services import Services

_PRUNE = schema.Reader(schema.PruneImages)
_NONE: frozenset[str] = frozenset()


def add(app: QuartTrio, services: Services) -> None:
    """Add the routes."""
    images = services.images

    async def get_all() -> Response:
        call(_NONE)
        found = [views.image(image) for image in images.list()]
        return reply(answers.ImagesView(images=found, disk=views.disk_use(await images.disk_use())))

    async def get(name: str) -> Response:
        match.check(request.method, request.path)  # for Quart, prune is an image
        call(_NONE)
        return reply(views.image(images.find(name)))

    async def remove(name: str) -> Response:
        match.check(request.method, request.path)
        call(_NONE)
        image = await images.remove(name)
        return reply(answers.RemovedImageView(image=image.reference, removed=True))

    async def prune() -> Response:
        asked = call(_NONE)
        return reply(views.pruned(await images.prune(_PRUNE.read(asked.body).all)))

    async def templates() -> Response:
        call(_NONE)
        return reply(services.templates.describe())

    one = f"{BASE}/images/<path:name>"
    app.add_url_rule(f"{BASE}/images", "list_images", get_all, methods=["GET"])
    app.add_url_rule(f"{BASE}/images/prune", "prune_images", prune, methods=["POST"])
    app.add_url_rule(one, "get_image", get, methods=["GET"])
    app.add_url_rule(one, "remove_image", remove, methods=["DELETE"])
    app.add_url_rule(f"{BASE}/templates", "list_templates", templates, methods=["GET"])
