# Made from asynchronous/images.py by scripts/blocking_client.py: change that one, and run it.
"""``client.images``, ``client.templates``, ``client.snapshots``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import IO

import msgspec

from nsbox.client.blocking.bytes import fetch_to, put
from nsbox.client.blocking.method import Method, Scope
from nsbox.client.blocking.streams import TaskStream
from nsbox.client.routes import images, snapshots
from nsbox.client.sending import Content, Tell, Upload
from nsbox.client.telling import Telling, pushed
from nsbox.client.types.image import BuiltTemplate, Image, Pushed

Target = str | os.PathLike[str] | IO[bytes]


class Images(Scope):
    """Images of the host, which all its users share."""

    list = Method(images.get_all)
    get = Method(images.get)
    pull = Method(images.pull)
    remove = Method(images.remove)
    prune = Method(images.prune)
    push = Method(images.push)

    def pulling(self, name: str) -> TaskStream[Image]:
        """Pull, and iterate over how far it is."""
        telling = Telling(
            images.pulling(self._at, name),
            self._driver.attempts(),
            last="image",
            read=lambda data: msgspec.convert(data, Image),
            safe=True,
        )
        return TaskStream(self._driver, telling)

    def pushing(self, name: str, to: str | None = None) -> TaskStream[Pushed]:
        """Push, and iterate over how far it is."""
        return TaskStream(self._driver, pushed(images.pushing(self._at, name, to), self._driver.attempts()))

    def import_archive(
        self, archive: Content, *, name: str | None = None, progress: Tell | None = None
    ) -> Image:
        """An OCI layout as a tar, or what ``docker save`` wrote, not compressed."""
        request = images.import_(self._at, name)
        return put(self._driver, request, Upload(archive, progress), images.image)

    def export(self, name: str, target: Target, *, format: str = "oci", progress: Tell | None = None) -> int:
        """An archive of it: ``oci``, or ``tar`` for its files. The number of bytes."""
        return fetch_to(self._driver, images.export(self._at, name, format), target, progress)


class Templates(Scope):
    """What sandboxes can be made from by a short name."""

    list = Method(images.templates)
    build = Method(images.build)

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
    ) -> TaskStream[BuiltTemplate]:
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
        return TaskStream(self._driver, telling)


class Snapshots(Scope):
    """What sandboxes had written, kept."""

    list = Method(snapshots.get_all)
    get = Method(snapshots.get)
    remove = Method(snapshots.remove)
    diff = Method(snapshots.diff)
    push = Method(snapshots.push)

    def pushing(self, snapshot_id: str, to: str) -> TaskStream[Pushed]:
        """Push, and iterate over how far it is."""
        request = snapshots.pushing(self._at, snapshot_id, to)
        return TaskStream(self._driver, pushed(request, self._driver.attempts()))

    def export(
        self, snapshot_id: str, target: Target, *, format: str = "oci", progress: Tell | None = None
    ) -> int:
        """An archive of it: ``oci``, or ``tar`` for its files. The number of bytes."""
        return fetch_to(self._driver, snapshots.export(self._at, snapshot_id, format), target, progress)
