"""``client.images``, ``client.templates``, ``client.snapshots``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import IO

import msgspec

from nsbox.client.asynchronous.bytes import fetch_to, put
from nsbox.client.asynchronous.method import AsyncMethod, AsyncScope
from nsbox.client.asynchronous.sending import AsyncContent, AsyncUpload
from nsbox.client.asynchronous.streams import AsyncTaskStream
from nsbox.client.routes import images, snapshots
from nsbox.client.sending import Tell
from nsbox.client.telling import Telling, pushed
from nsbox.client.types.image import BuiltTemplate, Image, Pushed

Target = str | os.PathLike[str] | IO[bytes]


class AsyncImages(AsyncScope):
    """Images of the host, which all its users share."""

    list = AsyncMethod(images.get_all)
    get = AsyncMethod(images.get)
    pull = AsyncMethod(images.pull)
    remove = AsyncMethod(images.remove)
    prune = AsyncMethod(images.prune)
    push = AsyncMethod(images.push)

    def pulling(self, name: str) -> AsyncTaskStream[Image]:
        """Pull, and iterate over how far it is."""
        telling = Telling(
            images.pulling(self._at, name),
            self._driver.attempts(),
            last="image",
            read=lambda data: msgspec.convert(data, Image),
            safe=True,
        )
        return AsyncTaskStream(self._driver, telling)

    def pushing(self, name: str, to: str | None = None) -> AsyncTaskStream[Pushed]:
        """Push, and iterate over how far it is."""
        return AsyncTaskStream(
            self._driver, pushed(images.pushing(self._at, name, to), self._driver.attempts())
        )

    async def import_archive(
        self, archive: AsyncContent, *, name: str | None = None, progress: Tell | None = None
    ) -> Image:
        """An OCI layout as a tar, or what ``docker save`` wrote, not compressed."""
        request = images.import_(self._at, name)
        return await put(self._driver, request, AsyncUpload(archive, progress), images.image)

    async def export(
        self, name: str, target: Target, *, format: str = "oci", progress: Tell | None = None
    ) -> int:
        """An archive of it: ``oci``, or ``tar`` for its files. The number of bytes."""
        return await fetch_to(self._driver, images.export(self._at, name, format), target, progress)


class AsyncTemplates(AsyncScope):
    """What sandboxes can be made from by a short name."""

    list = AsyncMethod(images.templates)
    build = AsyncMethod(images.build)

    def building(
        self,
        name: str,
        image: str,
        *,
        description: str | None = None,
        env: Mapping[str, str] | None = None,
        workdir: str | None = None,
        user: str | None = None,
        shell: Iterable[str] | None = None,
        start: Iterable[str] | None = None,
        start_image: bool | None = None,
        setup: Iterable[str] | None = None,
        setup_timeout: int | None = None,
    ) -> AsyncTaskStream[BuiltTemplate]:
        """Build, and iterate over how far it is."""
        request = images.building(
            self._at,
            name,
            image,
            description=description,
            env=env,
            workdir=workdir,
            user=user,
            shell=shell,
            start=start,
            start_image=start_image,
            setup=setup,
            setup_timeout=setup_timeout,
        )
        telling = Telling(
            request,
            self._driver.attempts(),
            last="template",
            read=lambda data: msgspec.convert(data, BuiltTemplate),
            safe=False,
        )
        return AsyncTaskStream(self._driver, telling)


class AsyncSnapshots(AsyncScope):
    """What sandboxes had written, kept."""

    list = AsyncMethod(snapshots.get_all)
    get = AsyncMethod(snapshots.get)
    remove = AsyncMethod(snapshots.remove)
    diff = AsyncMethod(snapshots.diff)
    push = AsyncMethod(snapshots.push)

    def pushing(self, snapshot_id: str, to: str) -> AsyncTaskStream[Pushed]:
        """Push, and iterate over how far it is."""
        request = snapshots.pushing(self._at, snapshot_id, to)
        return AsyncTaskStream(self._driver, pushed(request, self._driver.attempts()))

    async def export(
        self, snapshot_id: str, target: Target, *, format: str = "oci", progress: Tell | None = None
    ) -> int:
        """An archive of it: ``oci``, or ``tar`` for its files. The number of bytes."""
        return await fetch_to(self._driver, snapshots.export(self._at, snapshot_id, format), target, progress)
