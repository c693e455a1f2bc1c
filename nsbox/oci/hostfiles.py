"""Picks files of the host for a layer. A file has the same path in the layer as on the host, so every name,
link and chain of links (``/bin``, ``/etc/alternatives``) means there what it means here.

Two rules keep what is private out, whoever the daemon is:
- a file must be readable by everybody (and its folders passable), so that it is no secret on the host itself;
- it must lie below one of ``_PUBLIC``, where installed software is.
"""

from __future__ import annotations

import os
import posixpath
import stat
from typing import NamedTuple

from nsbox.oci.manifest import Entry, Kind, Skipped

_PUBLIC = (
    "/usr/",
    "/etc/alternatives/",
    "/etc/ssl/certs/",
    # hosts whose /usr is not merged
    "/bin/",
    "/sbin/",
    "/lib/",
    "/lib64/",
    "/lib32/",
)
_PUBLIC_FILES = frozenset(
    {
        "/etc/os-release",
        "/etc/debian_version",
        "/etc/protocols",
        "/etc/services",
        "/etc/mime.types",
        "/etc/ssl/openssl.cnf",
        "/etc/ssl/cert.pem",
    }
)
_MAX_LINKS = 40  # as the kernel
_KEY_MARK = b"PRIVATE KEY"


class RefusedError(Exception):
    """This path does not go into a layer."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class Found(NamedTuple):
    """A path followed to its end: all the links and folders on the way, and what is there."""

    real: str
    last: Entry
    steps: tuple[Entry, ...]


class HostFiles:
    """The files below ``root``, followed as a process chrooted there would."""

    def __init__(self, root: str = "/") -> None:
        self._root = root.rstrip("/")
        self._folders: dict[str, Found] = {}
        self._inodes: dict[str, tuple[int, int]] = {}  # of files with several names
        self._first_names: dict[tuple[int, int], str] = {}
        self.entries: dict[str, Entry] = {}
        self.skipped: dict[str, Skipped] = {}

    def find(self, path: str) -> Found:
        """Follow ``path``. Raises ``RefusedError``; changes nothing."""
        return self._follow(posixpath.normpath(path), 0)

    def exists(self, path: str) -> bool:
        """Whether there is anything of that name, even a dangling link."""
        return os.path.lexists(self._root + path)

    def take(self, found: Found) -> None:
        """Put what was found, and the way to it, into the layer."""
        for step in (*found.steps, found.last):
            if step.dest and step.dest not in self.entries:
                self.entries[step.dest] = self._once(step)

    def skip(self, path: str, reason: str) -> None:
        """Remember, for whoever asks why something is not there."""
        self.skipped.setdefault(path, Skipped(path, reason))

    def refuse(self, asked: str, error: RefusedError) -> None:
        """The same for an error, which may be about something further on than what was asked for."""
        self.skip(asked, error.reason if error.path == asked else str(error))

    def read(self, path: str, limit: int = 1 << 20) -> bytes:
        """The beginning of a file."""
        with open(self._root + path, "rb") as file:
            return file.read(limit)

    def names(self, path: str) -> list[os.DirEntry[str]]:
        """What is in a folder, sorted. Nothing, where it cannot be listed."""
        try:
            with os.scandir(self._root + path) as listing:
                return sorted(listing, key=lambda item: item.name)
        except OSError as error:
            self.skip(path, error.strerror or str(error))
            return []

    def _follow(self, path: str, links: int) -> Found:
        if path == "/":
            return Found("/", Entry(dest="", kind=Kind.DIRECTORY, mode=0o755, mtime_ns=0), ())
        if path in self._folders:
            return self._folders[path]
        parent, name = posixpath.split(path)
        folder = self._follow(parent, links)
        if folder.last.kind is not Kind.DIRECTORY:
            raise RefusedError(path, "not in a folder")
        real = posixpath.join(folder.real, name)
        steps = (*folder.steps, folder.last)
        try:
            name.encode()
            status = os.lstat(self._root + real)
        except OSError as error:
            raise RefusedError(path, error.strerror or str(error)) from error
        except UnicodeEncodeError as error:
            raise RefusedError(path, "a name that is not UTF-8") from error
        if stat.S_ISLNK(status.st_mode):
            found = self._through(path, real, steps, status, links)
        elif stat.S_ISDIR(status.st_mode):
            found = Found(real, self._folder(real, status), steps)
        else:
            return Found(real, self._file(real, status), steps)
        if found.last.kind is Kind.DIRECTORY:
            self._folders[path] = found
        return found

    def _through(
        self, path: str, real: str, steps: tuple[Entry, ...], status: os.stat_result, links: int
    ) -> Found:
        if links >= _MAX_LINKS:
            raise RefusedError(path, "too many links")
        target = os.readlink(self._root + real)
        # The folder of the link is real already, so that `..` may be taken literally.
        end = self._follow(posixpath.normpath(posixpath.join(posixpath.dirname(real), target)), links + 1)
        link = Entry(dest=real[1:], kind=Kind.SYMLINK, mode=0o777, mtime_ns=status.st_mtime_ns, target=target)
        return Found(end.real, end.last, (*steps, link, *end.steps))

    def _folder(self, real: str, status: os.stat_result) -> Entry:
        if not status.st_mode & stat.S_IXOTH:
            raise RefusedError(real, "a folder that is not everybody's")
        if not real.startswith(_PUBLIC) and not any(public.startswith(real + "/") for public in _PUBLIC):
            raise RefusedError(real, "outside the folders of installed software")
        # Folders writable by a group of the host (staff) have no such group inside.
        mode = status.st_mode & 0o755
        return Entry(dest=real[1:], kind=Kind.DIRECTORY, mode=mode, mtime_ns=status.st_mtime_ns)

    def _file(self, real: str, status: os.stat_result) -> Entry:
        if not stat.S_ISREG(status.st_mode):
            raise RefusedError(real, "not a regular file")
        if not status.st_mode & stat.S_IROTH or not os.access(self._root + real, os.R_OK):
            raise RefusedError(real, "not readable by everybody")
        if not real.startswith(_PUBLIC) and real not in _PUBLIC_FILES:
            raise RefusedError(real, "outside the folders of installed software")
        if real.startswith("/etc/") and _KEY_MARK in self.read(real):
            raise RefusedError(real, "holds a private key")
        entry = Entry(
            dest=real[1:],
            kind=Kind.FILE,
            mode=status.st_mode & 0o755,
            mtime_ns=status.st_mtime_ns,
            source=self._root + real,
            size=status.st_size,
        )
        if status.st_nlink > 1:
            self._inodes[entry.dest] = (status.st_dev, status.st_ino)
        return entry

    def _once(self, entry: Entry) -> Entry:
        """Hard links of the host (git has a few) become symbolic ones, rather than copies."""
        inode = self._inodes.get(entry.dest)
        first = self._first_names.setdefault(inode, entry.dest) if inode else entry.dest
        if first == entry.dest:
            return entry
        return Entry(
            dest=entry.dest, kind=Kind.SYMLINK, mode=0o777, mtime_ns=entry.mtime_ns, target="/" + first
        )
