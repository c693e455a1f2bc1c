"""What an embedded layer is made of: pure data, decided by ``embedded``, executed by ``embed_worker``."""

from __future__ import annotations

import hashlib
from enum import StrEnum

import msgspec


class Kind(StrEnum):
    """What an entry becomes."""

    DIRECTORY = "directory"
    FILE = "file"  # copied from the host
    SYMLINK = "symlink"
    LITERAL = "literal"  # a file with the content given here


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One name in the layer. ``dest`` is relative to its top; ``uid`` and ``gid`` are a sandbox's own."""

    dest: str
    kind: Kind
    mode: int
    mtime_ns: int
    uid: int = 0
    gid: int = 0
    source: str = ""
    size: int = 0
    target: str = ""
    content: bytes = b""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How commands run in the template, as an image's config says it for an image."""

    env: dict[str, str]
    workdir: str
    user: str
    shell: tuple[str, ...]


class Skipped(msgspec.Struct, frozen=True):
    """Something of the host that is not in the layer, and why."""

    path: str
    reason: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The whole layer. ``entries`` are in depth-first order: a directory comes before what is in it."""

    version: int
    entries: tuple[Entry, ...]
    config: Config
    skipped: tuple[Skipped, ...] = ()

    def encode(self) -> bytes:
        """Stable JSON: what ``embed_worker`` reads."""
        return msgspec.json.encode(self, order="deterministic")

    @property
    def digest(self) -> str:
        """Changes when the host's files do: sizes and times of all sources are part of it."""
        content = msgspec.structs.replace(self, skipped=())
        return "sha256:" + hashlib.sha256(content.encode()).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size or len(entry.content) for entry in self.entries)


def in_order(entries: dict[str, Entry]) -> tuple[Entry, ...]:
    """Sorted by destination, component by component."""
    return tuple(entries[dest] for dest in sorted(entries, key=lambda dest: dest.split("/")))
