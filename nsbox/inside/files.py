"""What the file agent does: opens, replaces, lists and removes, all by the kernel's own rules for its user.

Paths are resolved here, inside the sandbox's root and namespaces, so no symlink and no race can lead out.
Magic links (/proc/self/fd/3) are refused everywhere: they would name the agent's own descriptors.
"""

import errno
import json
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from nsbox.kernel import libc, trees
from nsbox.wire.messages import Stage

#: File systems whose files are plain data and may be handed out as descriptors. What is read of others
#: (proc, sysfs, mqueue) can depend on who reads, so they are copied here, by the sandbox's own process.
PLAIN = frozenset({0x794C_7630, 0x0102_1994})  # overlayfs, tmpfs
_LARGEST_COPY = 4 << 20
_NEW_FILE_MODE = 0o644
_LONGEST_LINK = 40
_DEEPEST = 4000


class Refusal(Exception):
    """A request that cannot be met."""

    def __init__(self, stage: Stage, number: int, detail: str = "") -> None:
        super().__init__(detail)
        self.stage, self.errno, self.detail = stage, number, detail or os.strerror(number)


class Replacement(NamedTuple):
    """A file being written: its temporary name in the directory where it will take the place of ``name``."""

    directory: int
    temporary: str
    name: str
    mode: int
    uid: int
    gid: int


def _open(path: str, flags: int, mode: int = 0) -> int:
    if "\0" in path:
        raise Refusal(Stage.PATH, errno.EINVAL)
    return libc.openat2(libc.AT_FDCWD, os.fsencode(path), flags, mode, libc.RESOLVE_NO_MAGICLINKS)


def open_for_reading(path: str) -> tuple[int, bool]:
    """A regular file as a descriptor, and whether it is a copy.

    Without O_NONBLOCK a FIFO would hold the agent until somebody writes to it; without O_NOCTTY a terminal
    could become its own.
    """
    descriptor = _open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        _require_regular(os.fstat(descriptor).st_mode)
        if libc.filesystem_type(descriptor) in PLAIN:
            return descriptor, False
        copy = _copy(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return copy, True


def _require_regular(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise Refusal(Stage.TYPE, errno.EISDIR)
    if not stat.S_ISREG(mode):
        raise Refusal(Stage.TYPE, errno.EINVAL, "not a regular file")


def _copy(descriptor: int) -> int:
    copy = os.memfd_create("nsbox-copy", os.MFD_CLOEXEC)
    try:
        left = _LARGEST_COPY
        while left and (data := os.read(descriptor, min(left, 65_536))):
            os.write(copy, data)
            left -= len(data)
        os.lseek(copy, 0, os.SEEK_SET)
    except BaseException:  # some files of /proc open and cannot be read
        os.close(copy)
        raise
    return copy


def begin_replacing(path: str, mode: int) -> tuple[Replacement, int]:
    """A temporary file beside ``path``, open for writing. Missing parents are made.

    Where ``path`` is a symlink, what it points to is replaced, as a shell's ``>`` would. ``mode`` -1: keep
    the mode of what is replaced, 0644 for a new file.
    """
    path = _follow(path)
    parent, name = os.path.split(path.rstrip("/") or "/")
    if not name or name in (".", ".."):
        raise Refusal(Stage.TYPE, errno.EISDIR)
    if path.endswith("/"):
        raise Refusal(Stage.TYPE, errno.EISDIR, "the path ends in a slash, so it names a directory")
    directory = _open_parent(parent)
    try:
        old = _stat(directory, name)
        if old is not None:
            _require_regular(old.st_mode)
        temporary = f".nsbox-{os.urandom(8).hex()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600, dir_fd=directory)
    except BaseException:
        os.close(directory)
        raise
    if mode < 0:
        mode = stat.S_IMODE(old.st_mode) if old is not None else _NEW_FILE_MODE
    uid, gid = (old.st_uid, old.st_gid) if old is not None else (-1, -1)
    # No more bits than a mode has: what C's int cannot hold would end the agent by an error nobody expects.
    return Replacement(directory, temporary, name, mode & 0o7777, uid, gid), descriptor


def _follow(path: str) -> str:
    """Where a symlink at ``path`` leads; without one, ``path``. A dangling one names the file to make."""
    for _ in range(_LONGEST_LINK):
        try:
            link = _open(path, os.O_PATH | os.O_NOFOLLOW)
        except OSError:
            return path
        try:
            if not stat.S_ISLNK(os.fstat(link).st_mode):
                return path
            if libc.filesystem_type(link) == libc.PROC_SUPER_MAGIC:
                break  # /proc/self/exe has the text of a path, but of our own program's, perhaps outside
            path = os.path.join(os.path.dirname(path), os.readlink("", dir_fd=link))
        finally:
            os.close(link)
    raise Refusal(Stage.PATH, errno.ELOOP)


def _open_parent(path: str) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY
    try:
        return _open(path or "/", flags)
    except FileNotFoundError:
        os.makedirs(path, 0o755, exist_ok=True)
        return _open(path, flags)


def _stat(directory: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def commit(replacement: Replacement, descriptor: int) -> None:
    """Put the written file in place: owner and mode first, so that it is never seen with the wrong ones."""
    try:
        if replacement.uid >= 0:
            try:
                os.fchown(descriptor, replacement.uid, replacement.gid)
            except PermissionError:
                pass  # not root in there: the file becomes its writer's, as with any editor
        os.fchmod(descriptor, replacement.mode)
        where = replacement.directory
        os.rename(replacement.temporary, replacement.name, src_dir_fd=where, dst_dir_fd=where)
    except BaseException:
        _unlink(replacement)
        raise
    finally:
        os.close(replacement.directory)


def abort(replacement: Replacement) -> None:
    """Remove the temporary file."""
    try:
        _unlink(replacement)
    finally:
        os.close(replacement.directory)


def _unlink(replacement: Replacement) -> None:
    try:
        os.unlink(replacement.temporary, dir_fd=replacement.directory)
    except FileNotFoundError:
        pass


def put(path: str, mode: int, data: bytes) -> int:
    """Replace a file by ``data``; its size."""
    replacement, descriptor = begin_replacing(path, mode)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
    except OSError:
        abort(replacement)
        os.close(descriptor)
        raise
    try:
        commit(replacement, descriptor)
    finally:
        os.close(descriptor)
    return len(data)


#: In the place of a row: not everything could be listed.
CUT = ""


def scan(path: str, recursive: bool, limit: int) -> Iterator[str]:
    """Rows of a listing as JSON arrays, or CUT where something is left out.

    One row more than ``limit`` is given, by which the caller knows that there are more.
    """
    top = _open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        pending = [""]
        while pending and limit >= 0:  # at 0 too: whether one more follows is what "truncated" says
            below = pending.pop()
            try:
                directory = top if not below else _open_below(top, below)
            except OSError:
                continue  # unreadable, or gone meanwhile: its own row has been given
            try:
                for row, name in _rows(directory, below):
                    yield row
                    limit -= 1
                    if limit < 0:
                        return
                    if not recursive or name is None:
                        continue
                    if len(os.fsencode(name)) < _DEEPEST:
                        pending.append(name)
                    else:
                        yield CUT  # no path leads there in one piece
            finally:
                if directory != top:
                    os.close(directory)
    finally:
        os.close(top)


def _open_below(top: int, path: str) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    resolve = libc.RESOLVE_NO_SYMLINKS | libc.RESOLVE_BENEATH
    return libc.openat2(top, os.fsencode(path), flags, resolve=resolve)


def _rows(directory: int, below: str) -> Iterator[tuple[str, str | None]]:
    """Each entry's row, and its path below the top if it is a directory to go into."""
    with os.scandir(directory) as entries:
        names = sorted(entry.name for entry in entries)
    for entry in names:
        try:
            found = os.stat(entry, dir_fd=directory, follow_symlinks=False)
            target = os.readlink(entry, dir_fd=directory) if stat.S_ISLNK(found.st_mode) else None
        except OSError:
            continue
        name = f"{below}/{entry}" if below else entry
        row = [name, stat.S_IFMT(found.st_mode), found.st_size, stat.S_IMODE(found.st_mode)]
        row += [found.st_uid, found.st_gid, found.st_mtime_ns, target]
        yield json.dumps(row, separators=(",", ":")), name if stat.S_ISDIR(found.st_mode) else None


def remove(path: str, recursive: bool) -> None:
    """Remove a file, a symlink itself, an empty directory or, with ``recursive``, a whole one."""
    parent, name = os.path.split(path.rstrip("/"))
    if not name or name in (".", ".."):
        raise Refusal(Stage.PATH, errno.EBUSY, "this directory cannot be removed")
    directory = _open(parent or "/", os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if not stat.S_ISDIR(found.st_mode):
            if path.endswith("/"):
                raise Refusal(Stage.TYPE, errno.ENOTDIR)
            os.unlink(name, dir_fd=directory)
        elif recursive:
            trees.remove_tree(directory, name)
        else:
            os.rmdir(name, dir_fd=directory)
    finally:
        os.close(directory)
