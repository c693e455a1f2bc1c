"""Snapshots and images as archives that other tools take."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import trio

from nsbox.host.keeper import KeeperLink
from nsbox.model.image import Image, ImageConfig
from nsbox.model.snapshot import Snapshot
from nsbox.oci.manifests import host_platform
from nsbox.oci.snapshots.orders import ExportOrder, Form, TaskRefused, export
from nsbox.service.cuts import problem_of
from nsbox.service.images import BUILT, Images, as_template

#: Each is a process that reads the disk, and goes at the pace of a client.
_AT_ONCE = 4
_SECONDS = 3_600.0
_OWN = "localhost/nsbox/"


class Exports:
    """Archives, written while they are read."""

    def __init__(self, images: Images, keeper: KeeperLink) -> None:
        self._images, self._keeper = images, keeper
        self._turns = trio.Semaphore(_AT_ONCE)

    @asynccontextmanager
    async def snapshot(
        self, record: Snapshot, *, layout: bool
    ) -> AsyncGenerator[AsyncGenerator[bytes, None], None]:
        """The whole of a snapshot: what its sandbox stood on and what it had written. ``layout``: an image
        with these layers; otherwise the files as a sandbox sees them."""
        order = snapshot_order(record, layout=layout)
        async with self._written(order) as pieces:
            yield pieces

    @asynccontextmanager
    async def image(self, name: str, *, layout: bool) -> AsyncGenerator[AsyncGenerator[bytes, None], None]:
        """An image that is here. Its layers are packed anew, so its digest is another than its registry's.
        Raises ``Problem(IMAGE_NOT_FOUND)``."""
        order = image_order(self._images.find(name), layout=layout)
        async with self._written(order) as pieces:
            yield pieces

    @asynccontextmanager
    async def _written(self, order: ExportOrder) -> AsyncGenerator[AsyncGenerator[bytes, None], None]:
        with self._images.hold(order.layers):
            async with self._turns, export(self._keeper, order) as pieces:
                yield _told(pieces)


def snapshot_order(record: Snapshot, *, layout: bool = True) -> ExportOrder:
    """A snapshot, to be written."""
    base, config = record.base, record.config
    settings: dict[str, Any] = {
        "Env": [f"{name}={value}" for name, value in base.env.items()],
        "WorkingDir": base.workdir,
        "User": base.user,
    }
    if config is not None:
        settings |= _start(config)
    elif base.shell:
        settings["Cmd"] = [base.shell[0]]
    return ExportOrder(
        form=Form.LAYOUT if layout else Form.FILES,
        layers=base.layers,
        config=_config(config, settings, record.created_at),
        annotations=_called(f"{_OWN}{record.id}:latest"),
        seconds=_SECONDS,
    )


def image_order(image: Image, *, layout: bool = True) -> ExportOrder:
    """An image, to be written."""
    config, reference = image.config, image.reference
    base = image.built or as_template(image, reference)
    settings = {
        "Env": [f"{name}={value}" for name, value in base.env.items()],
        "WorkingDir": base.workdir,
        "User": base.user,
        **_start(config),
    }
    if reference.startswith(BUILT):
        reference = f"{_OWN}{reference.removeprefix(BUILT)}:latest"
    return ExportOrder(
        form=Form.LAYOUT if layout else Form.FILES,
        layers=base.layers,
        config=_config(config, settings, image.pulled_at),
        annotations=_called(reference),
        seconds=_SECONDS,
    )


async def _told(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    try:
        async for piece in pieces:
            yield piece
    except TaskRefused as refused:
        raise problem_of(refused) from refused


def _start(config: ImageConfig) -> dict[str, Any]:
    told = {"Entrypoint": list(config.entrypoint), "Cmd": list(config.cmd), "Labels": config.labels}
    return {name: value for name, value in told.items() if value}


def _config(config: ImageConfig | None, settings: dict[str, Any], created_at: float) -> dict[str, Any]:
    """The image's config, but for its layers (image-spec, config.md)."""
    here = host_platform()
    told = {
        "created": datetime.fromtimestamp(created_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "architecture": (config and config.architecture) or here.architecture,
        "os": (config and config.os) or here.os,
        "config": {name: value for name, value in settings.items() if value},
    }
    if config is not None and config.variant:
        told["variant"] = config.variant
    return told


def _called(reference: str) -> dict[str, str]:
    name, _, tag = reference.rpartition(":")
    if "@" in reference or "/" in tag or not name:  # a digest, which is not that of what is written here
        return {"io.containerd.image.name": reference.partition("@")[0]}
    return {"io.containerd.image.name": reference, "org.opencontainers.image.ref.name": tag}
