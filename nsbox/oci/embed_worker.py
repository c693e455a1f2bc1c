"""Makes the default template's tree: ``python -I -m nsbox.oci.embed_worker DEST < manifest.json``.

It runs in nsbox's outer user namespace, as uid 0 there (the daemon's own user): only there can it give files
away to the ids that a sandbox knows as 0, 1, ... which are ``--offset`` higher there. Outside any namespace,
as real root, it does the same with the host's ids.

Standard library only, and imports nothing of nsbox: it is started with a bare interpreter.

The tree is made beside DEST and renamed when it is whole: a DEST that exists is complete. Whoever calls this
sees to it that there is one builder of a DEST at a time.
"""

from __future__ import annotations

import argparse
import base64
import errno
import json
import os
import shutil
import stat
import sys
from typing import Any, NamedTuple

#: Sandboxes' ids begin at outer id 1: outer 0 is the daemon's user, and no sandbox may own anything of it.
DEFAULT_OFFSET = 1
PARTIAL = ".partial"

_CHUNK = 1 << 24
_NO_FAST_COPY = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF, errno.ETXTBSY}
)
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a source that has become a FIFO must not hang the build.
_SOURCE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class ManifestError(Exception):
    """The manifest asks for something that a manifest never asks for."""


class _Open(NamedTuple):
    """A directory being filled. Its mode and times are set when it is full: filling it would change them."""

    name: bytes
    descriptor: int
    entry: dict[str, Any]


class Builder:
    """Fills one new directory. Entries come in depth-first order, each directory before its contents."""

    def __init__(self, top: int, offset: int) -> None:
        self._offset = offset
        self._stack = [_Open(b"", top, {"mode": 0o755})]
        self.entries = 0
        self.bytes = 0
        self.skipped: list[str] = []
        self.changed: list[str] = []

    def add(self, entry: dict[str, Any]) -> None:
        """Make one entry."""
        folders, name = _split(entry["dest"])
        self._enter(folders)
        kind = entry["kind"]
        parent = self._stack[-1].descriptor
        if kind == "directory":
            os.mkdir(name, 0o700, dir_fd=parent)
            self._stack.append(_Open(name, os.open(name, _FOLDER_FLAGS, dir_fd=parent), entry))
        elif kind == "symlink":
            os.symlink(_encoded(entry["target"]), name, dir_fd=parent)
            os.chown(name, *self._owner(entry), dir_fd=parent, follow_symlinks=False)
            os.utime(name, ns=_times(entry), dir_fd=parent, follow_symlinks=False)
        elif kind == "file":
            if not self._copy(entry, parent, name):
                return
        elif kind == "literal":
            self._write(entry, parent, name)
        else:
            raise ManifestError(f"an entry of unknown kind {kind!r}")
        self.entries += 1

    def finish(self) -> None:
        """Close all directories, setting what was left for the end."""
        self._leave(0)

    def close(self) -> None:
        """Let go of the directories, whatever their state."""
        while self._stack:
            os.close(self._stack.pop().descriptor)

    def _enter(self, folders: list[bytes]) -> None:
        here = [item.name for item in self._stack[1:]]
        common = 0
        while common < min(len(here), len(folders)) and here[common] == folders[common]:
            common += 1
        if common != len(folders):
            raise ManifestError(f"{os.fsdecode(b'/'.join(folders))!r} is not made before its contents")
        self._leave(common + 1)

    def _leave(self, depth: int) -> None:
        while len(self._stack) > depth:
            item = self._stack.pop()
            self._own(item.descriptor, item.entry)
            os.close(item.descriptor)

    def _copy(self, entry: dict[str, Any], parent: int, name: bytes) -> bool:
        source = entry["source"]
        if not source.startswith("/"):
            raise ManifestError(f"the source {source!r} is not absolute")
        try:
            original = os.open(_encoded(source), _SOURCE_FLAGS)
        except OSError as error:
            # Gone since the plan was made, or closed to this user: one tool less, not a failure.
            self.skipped.append(f"{source}: {error.strerror}")
            return False
        try:
            found = os.fstat(original)
            if not stat.S_ISREG(found.st_mode):
                self.skipped.append(f"{source}: not a regular file")
                return False
            if (found.st_size, found.st_mtime_ns) != (entry.get("size", 0), entry["mtime_ns"]):
                self.changed.append(source)
            copy = os.open(name, _NEW_FILE_FLAGS, 0o600, dir_fd=parent)
            try:
                self.bytes += copy_bytes(original, copy, found.st_size)
                self._own(copy, entry)
            finally:
                os.close(copy)
        finally:
            os.close(original)
        return True

    def _write(self, entry: dict[str, Any], parent: int, name: bytes) -> None:
        content = base64.b64decode(entry.get("content", ""), validate=True)  # an empty one is left out
        copy = os.open(name, _NEW_FILE_FLAGS, 0o600, dir_fd=parent)
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(copy, rest) :]
            self._own(copy, entry)
        finally:
            os.close(copy)
        self.bytes += len(content)

    def _owner(self, entry: dict[str, Any]) -> tuple[int, int]:
        return self._offset + int(entry.get("uid", 0)), self._offset + int(entry.get("gid", 0))

    def _own(self, descriptor: int, entry: dict[str, Any]) -> None:
        # Owner first: chown clears bits of the mode. Set-id bits are never given.
        os.fchown(descriptor, *self._owner(entry))
        os.fchmod(descriptor, int(entry["mode"]) & 0o1777)
        os.utime(descriptor, ns=_times(entry))


def _encoded(text: str) -> bytes:
    """UTF-8 whatever the locale: the manifest was written as UTF-8."""
    return text.encode("utf-8")


def _times(entry: dict[str, Any]) -> tuple[int, int]:
    return (int(entry.get("mtime_ns", 0)),) * 2


def _split(dest: str) -> tuple[list[bytes], bytes]:
    parts = _encoded(dest).split(b"/")
    if any(part in (b"", b".", b"..") or b"\0" in part for part in parts):
        raise ManifestError(f"the destination {dest!r} leads out of the layer")
    return parts[:-1], parts[-1]


def copy_bytes(source: int, target: int, size: int) -> int:
    """Copy to the end of ``source``, in the kernel where the two file systems allow it."""
    done = 0
    for copy in (_copy_range, _copy_sendfile):
        try:
            # Beyond the size once seen: a file that grew meanwhile is copied whole.
            while count := copy(source, target, max(size - done, 1 << 16)):
                done += count
        except OSError as error:
            if error.errno not in _NO_FAST_COPY:
                raise
        else:
            if done >= size:  # copy_file_range gives 0 for the generated files of some file systems
                return done
    while block := os.read(source, 1 << 20):
        rest = memoryview(block)
        while rest:
            rest = rest[os.write(target, rest) :]
        done += len(block)
    return done


def _copy_range(source: int, target: int, size: int) -> int:
    return os.copy_file_range(source, target, min(size, _CHUNK))


def _copy_sendfile(source: int, target: int, size: int) -> int:
    return os.sendfile(target, source, None, min(size, _CHUNK))


def build(dest: str, manifest: dict[str, Any], offset: int = DEFAULT_OFFSET) -> dict[str, Any]:
    """Make the tree at ``dest``, which must not exist. Returns what is to be reported."""
    parent_path, name = os.path.split(os.path.abspath(dest))
    partial = name + PARTIAL
    parent = os.open(parent_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _exists(parent, name):
            raise FileExistsError(errno.EEXIST, "is there already", dest)
        # What an interrupted run has left is of no use. rmtree with a descriptor follows no links.
        if _exists(parent, partial):
            shutil.rmtree(partial, dir_fd=parent)
        os.mkdir(partial, 0o700, dir_fd=parent)
        try:
            builder = _fill(parent, partial, manifest, offset)
            # One sync for thousands of files: an fsync for each would take seconds, and without any of them
            # a power cut could leave a renamed tree of empty files.
            os.sync()
            os.rename(partial, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True, dir_fd=parent)
            raise
        os.fsync(parent)
    finally:
        os.close(parent)
    return {
        "entries": builder.entries,
        "bytes": builder.bytes,
        "skipped": builder.skipped,
        "changed": builder.changed,
    }


def _fill(parent: int, partial: str, manifest: dict[str, Any], offset: int) -> Builder:
    top = os.open(partial, _FOLDER_FLAGS, dir_fd=parent)
    builder = Builder(top, offset)
    try:
        for entry in manifest["entries"]:
            builder.add(entry)
        builder.finish()
    finally:
        builder.close()
    return builder


def _exists(parent: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def main(arguments: list[str] | None = None) -> int:
    """The command. One JSON line on success; a sentence on standard error and status 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -I -m nsbox.oci.embed_worker", description=__doc__)
    parser.add_argument("dest")
    parser.add_argument("--offset", type=int, default=DEFAULT_OFFSET)
    options = parser.parse_args(arguments)
    os.umask(0)
    try:
        report = build(options.dest, json.load(sys.stdin.buffer), options.offset)
    except (OSError, ValueError, KeyError, TypeError, ManifestError) as error:
        print(f"the default template could not be built: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
