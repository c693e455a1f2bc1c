"""Records of snapshots: what a sandbox had written at one moment, kept as a layer. Pure data."""

from __future__ import annotations

import base64
import secrets
from enum import StrEnum

import msgspec

from nsbox.model.image import ImageConfig
from nsbox.model.network import NetworkPolicy
from nsbox.model.request import Request
from nsbox.model.sandbox import Limits
from nsbox.model.template import Template

ID_PREFIX = "snap_"
#: What the folders of their layers begin with.
LAYER_PREFIX = "s-"


def new_snapshot_id() -> str:
    """``snap_`` and 32 characters of a-z2-7: 160 random bits."""
    return ID_PREFIX + base64.b32encode(secrets.token_bytes(20)).decode().lower()


def new_layer() -> str:
    """A name for a layer that nobody else has."""
    return LAYER_PREFIX + secrets.token_hex(13)


class Purpose(StrEnum):
    """What a layer is made for. The record of a fork lives until its sandboxes do: one that is found at the
    start without their names tells that they were not all made."""

    SNAPSHOT = "snapshot"
    FORK = "fork"


class Standstill(StrEnum):
    """What was done about processes that might write meanwhile."""

    FROZEN = "frozen"  # stopped for the copy, and gone on after it
    PAUSED = "paused"  # paused before, and still
    RUNNING = "running"  # no cgroup is delegated here: nothing could be stopped


class Cut(msgspec.Struct, frozen=True, kw_only=True):
    """What was copied. ``bytes``: of data, holes left out; ``skipped``: sockets; ``dropped``: attributes;
    ``changed``: what changed while it was copied; ``cloned``: files whose blocks are shared."""

    entries: int
    bytes: int
    skipped: int
    dropped: int
    changed: int
    cloned: int


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The record of one. ``layer`` is what the sandbox had written, ``base`` what a new sandbox is made from,
    with that layer as the topmost; ``config`` that of the image below, for an export. ``cut`` is None while
    it is being made. ``request`` asked for it, if that had an Idempotency-Key; a fork's record is kept for
    that, with the names of its ``sandboxes``, and holds no layer any more. ``boot_id``: while it is not known
    to be on disk, it is worth nothing after another boot."""

    id: str
    owner: str
    purpose: Purpose = Purpose.SNAPSHOT
    name: str = ""
    sandbox: str
    layer: str
    base: Template
    config: ImageConfig | None = None
    limits: Limits
    timeout_ms: int
    network: NetworkPolicy
    created_at: float
    boot_id: str
    cut: Cut | None = None
    standstill: Standstill = Standstill.RUNNING
    request: Request | None = None
    sandboxes: tuple[str, ...] = ()


class Kind(StrEnum):
    """What became of a path."""

    ADDED = "added"
    MODIFIED = "modified"
    DELETED = "deleted"


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A path that differs. ``path`` is base64 of its bytes; ``type``, ``size`` and the rest are of what is
    there now, or was there where it is deleted."""

    path: str
    kind: Kind
    type: str
    size: int
    mode: int
    uid: int
    gid: int
    mtime: float
