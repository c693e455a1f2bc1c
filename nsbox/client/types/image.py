"""Images, templates, snapshots and forks."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import msgspec

from nsbox.client.types.base import Answered
from nsbox.client.types.sandbox import SandboxInfo


class ImageConfig(Answered, frozen=True):
    """What an image says of its start."""

    env: dict[str, str] = msgspec.field(default_factory=dict)
    workdir: str | None = None
    user: str | None = None
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    labels: dict[str, str] = msgspec.field(default_factory=dict)


class Layer(Answered, frozen=True):
    """One layer of an image."""

    size_bytes: int
    digest: str | None = None
    diff_id: str | None = None
    download_bytes: int = 0


class Image(Answered, frozen=True):
    """An image that is on the host."""

    image: str
    digest: str
    platform: str = ""
    index_digest: str | None = None
    created_at: str | None = None
    pulled_at: datetime | None = None
    source: str | None = None
    size_bytes: int = 0
    download_bytes: int = 0
    shell: bool | None = None
    config: ImageConfig = ImageConfig()
    layers: tuple[Layer, ...] = ()


class ImagesDisk(Answered, frozen=True):
    """What images take."""

    images: int = 0
    layers: int = 0
    bytes: int = 0
    reclaimable_bytes: int = 0
    download_bytes: int = 0


class Images(Answered, frozen=True):
    """All images of the host."""

    images: tuple[Image, ...]
    disk: ImagesDisk = ImagesDisk()


class RemovedImage(Answered, frozen=True):
    """An image that is forgotten."""

    image: str
    removed: bool = True


class Pruned(Answered, frozen=True):
    """What was removed."""

    images: tuple[str, ...] = ()
    layers: int = 0
    freed_bytes: int = 0


class PushedLayer(Answered, frozen=True):
    """A layer that a registry has now. ``outcome``: ``uploaded``, ``mounted`` or ``present``."""

    digest: str
    size_bytes: int = 0
    outcome: str = ""


class Pushed(Answered, frozen=True):
    """An image that a registry has now. ``sent_bytes``: of layers that were uploaded."""

    image: str
    digest: str
    sent_bytes: int = 0
    layers: tuple[PushedLayer, ...] = ()


class Template(Answered, frozen=True):
    """What a sandbox can be made from by a short name. ``ready``: at once, without a pull."""

    id: str
    ready: bool = True
    default: bool = False
    description: str = ""
    image: str | None = None
    setup: bool = False


class BuiltTemplate(Answered, frozen=True):
    """A template that was built."""

    id: str
    image: str = ""
    layers: int = 0
    ready: bool = True


class Progress(NamedTuple):
    """How far a pull, a push or a build is: of one ``layer``, or as a whole, or the ``step`` of a build."""

    stage: str | None
    layer: str | None
    current: int
    total: int
    step: str | None


class Snapshot(Answered, frozen=True):
    """What a sandbox had written, kept. ``processes``: whether any could run meanwhile."""

    id: str
    name: str
    sandbox_id: str
    template_id: str
    created_at: datetime
    size_bytes: int
    image: str | None = None
    entries: int = 0
    layers: int = 0
    processes: str = ""
    changed: int = 0
    skipped: int = 0
    attributes_dropped: int = 0
    durable: bool = False
    vcpus: int = 1
    memory_mb: int = 0
    storage_mb: int = 0
    timeout_ms: int = 0


class RemovedSnapshot(Answered, frozen=True):
    """A snapshot that nobody is given any more."""

    id: str
    removed: bool = True


class Forks(Answered, frozen=True):
    """New sandboxes with the files of one."""

    sandboxes: tuple[SandboxInfo, ...]
    processes: str = ""
    changed: int = 0
    size_bytes: int = 0
