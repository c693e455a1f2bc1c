"""Files of sandboxes."""

from __future__ import annotations

from datetime import datetime

from nsbox.client.types.base import Answered


class Entry(Answered, frozen=True):
    """One name of a directory. What is not UTF-8 is exact in the members with base64."""

    name: str
    path: str
    type: str
    size: int
    mode: str
    uid: int
    gid: int
    mtime: datetime
    target: str | None = None
    name_base64: str | None = None
    path_base64: str | None = None
    target_base64: str | None = None


class Listing(Answered, frozen=True):
    """A directory. ``truncated``: there are more than nsbox lists."""

    path: str
    files: tuple[str, ...]
    entries: tuple[Entry, ...]
    truncated: bool = False


class Written(Answered, frozen=True):
    """A file that was written."""

    path: str
    size: int
    written: bool = True


class Removed(Answered, frozen=True):
    """A file that is there no longer."""

    path: str
    deleted: bool = True


class Change(Answered, frozen=True):
    """What is different from what a sandbox was made from."""

    path: str
    change: str
    type: str
    size: int
    mode: str
    uid: int
    gid: int
    mtime: datetime
    path_base64: str | None = None


class Changes(Answered, frozen=True):
    """A page of differences; ``next`` goes on behind it."""

    changes: tuple[Change, ...]
    next: str | None = None
