"""A folder out of a sandbox. Its archive was written by code that nobody has read: nothing in it may lead
out of the folder it goes to.

tarfile's own filters are no wall before Python 3.11.13 (CVE-2025-4517), so it only reads here. Every part of
a name is opened from the folder before it, never through a symlink; symlinks are made last, and only such as
stay inside. Devices, pipes and sockets are left out, and no set-user bits come along."""

from __future__ import annotations

import contextlib
import os
import stat
import tarfile
from collections.abc import Iterator
from typing import IO, NamedTuple

from nsbox.model.errors import HostProblem

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 1 << 20
_DEEPEST = 256


class _Link(NamedTuple):
    parts: tuple[str, ...]
    target: str


def unpack(archive: IO[bytes], target: str) -> list[str]:
    """What is in the archive, below the folder ``target``, which is made if need be. The names that were left
    out. Raises ``HostProblem``."""
    skipped, links, late = [], [], []
    try:
        os.makedirs(target, exist_ok=True)
        top = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with tarfile.open(fileobj=archive, mode="r|") as tar:
                for member in tar:
                    parts = _parts(member.name)
                    if member.isdir():
                        with _folder(top, parts):
                            late.append((parts, member.mode))
                    elif member.issparse():
                        skipped.append(member.name)  # a few bytes could fill this disk with zeros
                    elif member.isreg() and parts:
                        _file(top, parts, tar.extractfile(member), member.mode)
                    elif member.islnk() and parts:
                        _hard_link(top, parts, _parts(member.linkname))
                    elif member.issym() and _stays(parts, member.linkname):
                        links.append(_Link(parts, member.linkname))
                    else:
                        skipped.append(member.name)
            for link in links:
                _symlink(top, link)
            # Last: a folder that may not be written to could not be filled.
            for parts, mode in reversed(late):
                with _folder(top, parts) as folder:
                    os.fchmod(folder, mode & 0o777)
        finally:
            os.close(top)
    except (OSError, tarfile.TarError, EOFError) as error:
        raise HostProblem(f"the folder could not be unpacked to {target}: {error}") from error
    return skipped


def _parts(name: str) -> tuple[str, ...]:
    """The names of a path. Raises ``HostProblem`` for one that leads elsewhere."""
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if name.startswith("/") or ".." in parts or "\0" in name or len(parts) > _DEEPEST:
        raise HostProblem(f"the sandbox sent a name that leads elsewhere: {name[:200]!r}")
    return parts


def _stays(parts: tuple[str, ...], target: str) -> bool:
    """Whether a symlink there leads to a place inside. Not absolute: that would be a file of this host."""
    if not parts or not target or target.startswith("/") or "\0" in target:
        return False
    depth = len(parts) - 1
    for part in target.split("/"):
        depth += -1 if part == ".." else 0 if part in ("", ".") else 1
        if depth < 0:
            return False
    # A step up behind a step down could go through another symlink, and end anywhere.
    downs = [part for part in target.split("/") if part not in ("", ".")]
    return ".." not in downs[downs.count("..") :]


@contextlib.contextmanager
def _folder(top: int, parts: tuple[str, ...]) -> Iterator[int]:
    """A descriptor of the folder, made if need be."""
    current = os.dup(top)
    try:
        for part in parts:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=current)
            inner = os.open(part, _FOLDER, dir_fd=current)
            os.close(current)
            current = inner
        yield current
    finally:
        os.close(current)


@contextlib.contextmanager
def _new(top: int, parts: tuple[str, ...], mode: int) -> Iterator[IO[bytes]]:
    with _folder(top, parts[:-1]) as folder:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(parts[-1], dir_fd=folder)
        with os.fdopen(os.open(parts[-1], _NEW, 0o600, dir_fd=folder), "wb") as file:
            yield file
            os.fchmod(file.fileno(), mode & 0o777)


def _file(top: int, parts: tuple[str, ...], content: IO[bytes] | None, mode: int) -> None:
    assert content is not None
    with _new(top, parts, mode) as file:
        while piece := content.read(_CHUNK):
            file.write(piece)


def _hard_link(top: int, parts: tuple[str, ...], source: tuple[str, ...]) -> None:
    """Another name for a file that came before. Not a copy: a thousand names of one file would be a bomb."""
    if not source:
        raise HostProblem("the sandbox sent a hard link to a folder")
    with _folder(top, source[:-1]) as there, _folder(top, parts[:-1]) as here:
        if not stat.S_ISREG(os.stat(source[-1], dir_fd=there, follow_symlinks=False).st_mode):
            raise HostProblem("the sandbox sent a hard link to what is no file")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(parts[-1], dir_fd=here)
        os.link(source[-1], parts[-1], src_dir_fd=there, dst_dir_fd=here, follow_symlinks=False)


def _symlink(top: int, link: _Link) -> None:
    with _folder(top, link.parts[:-1]) as folder:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(link.parts[-1], dir_fd=folder)
        os.symlink(link.target, link.parts[-1], dir_fd=folder)
