"""Keeps what a sandbox has written as a layer: ``main([DEST])``, the sandbox's folder on standard input.

It runs in the outer namespace as ``remove_layer`` does. Nothing runs in the sandbox any more, but what it has
left is hostile all the same: everything is reached by descriptors, no symlink is followed, devices other than
whiteouts and sockets are left out. The copy is made beside DEST and renamed when it is whole and on disk.

Of overlayfs's own attributes only "opaque" is kept: the others (origin, impure, ...) tell of the mount that
the tree was written by.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys

from nsbox.kernel import trees
from nsbox.oci.embed_worker import copy_bytes

PARTIAL = ".partial"
_ID = re.compile(r"[a-z0-9][a-z0-9_]{0,63}")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEPTH = 512
_OVERLAY = "user.overlay."
_KEPT = "user.overlay.opaque"


class Refused(Exception):
    """The tree cannot be kept."""


class _Copier:
    """Copies one tree. Hard links within it stay hard links."""

    def __init__(self) -> None:
        self.entries = 0
        self.bytes = 0
        self._links: dict[tuple[int, int], str] = {}
        self._top = -1

    def run(self, source: int, target: int) -> None:
        self._top = target
        self._folder(source, target, "", 0)

    def _folder(self, source: int, target: int, path: str, depth: int) -> None:
        if depth > _DEPTH:
            raise Refused(f"folders are nested more than {_DEPTH} deep")
        for name in os.listdir(source):
            self._entry(source, target, name, f"{path}{name}", depth)
        status = os.fstat(source)
        _own(target, status, source)

    def _entry(self, source: int, target: int, name: str, path: str, depth: int) -> None:
        status = os.stat(name, dir_fd=source, follow_symlinks=False)
        kind = stat.S_IFMT(status.st_mode)
        self.entries += 1
        if kind == stat.S_IFDIR:
            os.mkdir(name, 0o700, dir_fd=target)
            inner, copy = os.open(name, _FOLDER, dir_fd=source), os.open(name, _FOLDER, dir_fd=target)
            try:
                self._folder(inner, copy, f"{path}/", depth + 1)
            finally:
                os.close(inner)
                os.close(copy)
        elif kind == stat.S_IFREG:
            self._file(source, target, name, path, status)
        elif kind == stat.S_IFLNK:
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
            os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)
        elif kind == stat.S_IFCHR and status.st_rdev == 0:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=target)  # a whiteout
        elif kind == stat.S_IFIFO:
            os.mkfifo(name, stat.S_IMODE(status.st_mode), dir_fd=target)
            os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
        else:
            self.entries -= 1

    def _file(self, source: int, target: int, name: str, path: str, status: os.stat_result) -> None:
        known = (status.st_dev, status.st_ino)
        if status.st_nlink > 1 and known in self._links:
            os.link(self._links[known], name, src_dir_fd=self._top, dst_dir_fd=target, follow_symlinks=False)
            return
        original = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=source)
        try:
            copy = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
            try:
                self.bytes += copy_bytes(original, copy, status.st_size)
                _own(copy, status, original)
            finally:
                os.close(copy)
        finally:
            os.close(original)
        if status.st_nlink > 1:
            self._links[known] = path


def _own(copy: int, status: os.stat_result, original: int) -> None:
    # Owner first: chown clears set-id bits and capabilities.
    os.fchown(copy, status.st_uid, status.st_gid)
    os.fchmod(copy, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(original):
        if name.startswith(_OVERLAY) and name != _KEPT:
            continue
        try:
            os.setxattr(copy, name, os.getxattr(original, name))
        except OSError as error:
            # What this namespace may not set (security.capability of another root, say) stays behind.
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENODATA, errno.EINVAL):
                raise
    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))


def keep(dest: str, sandbox_id: str) -> _Copier:
    """Copy ``sandboxes/ID/upper``, beside the folder of layers, to ``dest``."""
    layers, name = os.path.split(dest)
    parent = os.open(layers, _FOLDER)
    try:
        source = os.open(f"../sandboxes/{sandbox_id}/upper", _FOLDER, dir_fd=parent)
        try:
            partial = name + PARTIAL
            os.mkdir(partial, 0o700, dir_fd=parent)
            try:
                copier = _copy(source, parent, partial)
                os.sync()  # one for all: an fsync for each file would take seconds
                os.rename(partial, name, src_dir_fd=parent, dst_dir_fd=parent)
            except BaseException:
                trees.remove_tree(parent, partial)
                raise
        finally:
            os.close(source)
        os.fsync(parent)
    finally:
        os.close(parent)
    return copier


def _copy(source: int, parent: int, partial: str) -> _Copier:
    target = os.open(partial, _FOLDER, dir_fd=parent)
    try:
        copier = _Copier()
        copier.run(source, target)
    finally:
        os.close(target)
    return copier


def main(arguments: list[str]) -> int:
    """Entries and bytes on standard output; 1 and a sentence on standard error where it cannot be."""
    os.umask(0)
    sandbox_id = sys.stdin.read(256).strip()
    try:
        if not _ID.fullmatch(sandbox_id):
            raise Refused("that is no sandbox's id")
        copier = keep(arguments[0], sandbox_id)
    except (OSError, Refused, RecursionError) as error:
        print(f"nsbox: the sandbox cannot be kept as a layer: {error}", file=sys.stderr)
        return 1
    print(f"{copier.entries} {copier.bytes}")
    return 0
