"""What differs between a tree that lies over another one and that one: added, modified, deleted.

Both are walked side by side, by descriptors, no symlink followed. What overlayfs says by whiteouts and opaque
folders is said here by paths. A file that is in both is modified: overlayfs copies a file up when somebody
opens it for writing, and whether its contents were changed, nobody has noted. A folder is modified if its
owner or its mode is another; it is copied up for each file in it, which says nothing.
"""

import base64
import os
import stat
from typing import Any, NamedTuple

from nsbox.oci.snapshots.copier import DEPTH, OPAQUE
from nsbox.oci.unpacking.refusal import Reason, Refused

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Nothing could name what lies deeper.
_LONGEST_PATH = 4_094
#: A page ends when it is so large.
_PAGE_BYTES = 4 << 20
_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


class _Open(NamedTuple):
    """A folder in both trees; -1 where the lower one has none. ``opaque``: nothing of the lower one is seen.
    ``names``: what is left of it, the last one first. ``after``: where the page before has ended, if in
    here."""

    upper: int
    lower: int
    opaque: bool
    names: list[bytes]
    path: bytes
    after: list[bytes]


class Comparison:
    """Compares ``upper`` with ``lower``, both open. ``after``: the last path that is known already."""

    def __init__(self, upper: int, lower: int, after: bytes, limit: int) -> None:
        self._limit = limit
        self._changes: list[dict[str, Any]] = []
        self._bytes = 0
        self._last = b""
        self._stack: list[_Open] = []
        self._enter(upper, lower, b"", after.split(b"/") if after else [], opaque=False)

    def run(self) -> dict[str, Any]:
        """A page in the order of names. Raises ``Refused``, ``OSError``."""
        try:
            while self._stack:
                here = self._stack[-1]
                if not here.names:
                    self._leave()
                elif len(self._changes) >= self._limit or self._bytes >= _PAGE_BYTES:
                    # More names are left, though perhaps no more changes.
                    return {"changes": self._changes, "after": _text(self._last, url=True)}
                else:
                    self._entry(here, here.names.pop())
        finally:
            while self._stack:
                self._leave()
        return {"changes": self._changes, "after": ""}

    def _enter(self, upper: int, lower: int, path: bytes, after: list[bytes], *, opaque: bool) -> None:
        if len(self._stack) > DEPTH:
            raise Refused(Reason.DEPTH, f"folders are nested more than {DEPTH} deep")
        names = set(map(os.fsencode, os.listdir(upper)))
        if opaque and lower >= 0:
            names.update(map(os.fsencode, os.listdir(lower)))
        left = [name for name in names if not after or name >= after[0]]
        self._stack.append(_Open(upper, lower, opaque, sorted(left, reverse=True), path, after))

    def _leave(self) -> None:
        done = self._stack.pop()
        if self._stack:
            os.close(done.upper)
            if done.lower >= 0:
                os.close(done.lower)

    def _entry(self, here: _Open, name: bytes) -> None:
        path = here.path + name
        if len(path) > _LONGEST_PATH:
            return
        over, under = _status(here.upper, name), _status(here.lower, name)
        if under is not None and _is_whiteout(under):  # of a layer that is looked at for itself
            under = None
        known = here.after[:1] == [name]
        if over is None or _is_whiteout(over):
            if under is not None and not known:
                self._tell("deleted", path, under)
            return
        if not known and _differs(over, under):
            self._tell("added" if under is None else "modified", path, over)
        if stat.S_ISDIR(over.st_mode):
            self._descend(here, name, path, under, here.after[1:] if known else [])

    def _descend(
        self, here: _Open, name: bytes, path: bytes, under: os.stat_result | None, after: list[bytes]
    ) -> None:
        try:
            upper = os.open(name, _FOLDER, dir_fd=here.upper)
        except OSError:  # it has been replaced meanwhile
            return
        lower = -1
        if under is not None and stat.S_ISDIR(under.st_mode):
            lower = os.open(name, _FOLDER, dir_fd=here.lower)
        opaque = here.opaque or (lower >= 0 and _is_opaque(upper))
        self._enter(upper, lower, path + b"/", after, opaque=opaque)

    def _tell(self, kind: str, path: bytes, status: os.stat_result) -> None:
        self._last = path
        self._bytes += len(path) + 200
        self._changes.append(
            {
                "path": _text(path),
                "kind": kind,
                "type": _TYPES.get(stat.S_IFMT(status.st_mode), "device"),
                "size": 0 if stat.S_ISDIR(status.st_mode) else status.st_size,
                "mode": stat.S_IMODE(status.st_mode),
                "uid": status.st_uid,
                "gid": status.st_gid,
                "mtime": status.st_mtime,
            }
        )


def _text(path: bytes, *, url: bool = False) -> str:
    return (base64.urlsafe_b64encode(path) if url else base64.b64encode(path)).decode()


def _status(folder: int, name: bytes) -> os.stat_result | None:
    if folder < 0:
        return None
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _is_opaque(folder: int) -> bool:
    try:
        return os.getxattr(folder, OPAQUE) == b"y"
    except OSError:
        return False


def _differs(over: os.stat_result, under: os.stat_result | None) -> bool:
    if under is None or not (stat.S_ISDIR(over.st_mode) and stat.S_ISDIR(under.st_mode)):
        return True
    return (over.st_mode, over.st_uid, over.st_gid) != (under.st_mode, under.st_uid, under.st_gid)
