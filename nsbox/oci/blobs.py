"""Blobs on disk, by digest: what has been fetched and is not unpacked yet, and what is half fetched.

``blobs/HEX`` is complete, verified and durable: it got its name by a rename after an fsync.
``blobs/HEX.part`` is the beginning of one, good for going on. All is synchronous, for a worker thread.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

from nsbox.oci.reference import DIGEST

FOLDER = "blobs"
_PART = ".part"
_CHUNK = 1 << 20


class Mismatch(Exception):
    """The bytes are not those of the digest, or more or less than the size that was told."""


class Blobs:
    """The folder."""

    def __init__(self, state_dir: str) -> None:
        self._path = os.path.join(state_dir, FOLDER)
        os.makedirs(self._path, 0o700, exist_ok=True)

    def path(self, digest: str) -> str:
        """Where a blob is, or would be."""
        assert DIGEST.fullmatch(digest), digest
        return os.path.join(self._path, digest.removeprefix("sha256:"))

    def has(self, digest: str, size: int) -> bool:
        """Whether it is here, whole."""
        try:
            return os.stat(self.path(digest)).st_size == size
        except FileNotFoundError:
            return False

    def open(self, digest: str) -> int:
        """A descriptor for reading."""
        return os.open(self.path(digest), os.O_RDONLY | os.O_CLOEXEC)

    def begin(self, digest: str, size: int) -> Incoming:
        """Go on with a blob, or begin it."""
        return Incoming(self, digest, size)

    def remove(self, digest: str) -> None:
        """Forget a blob and what there is of it."""
        for path in (self.path(digest), self.path(digest) + _PART):
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass

    def sync(self) -> None:
        """Make renames durable."""
        descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def temporary(self) -> int:
        """A file without a name, for what has no digest yet: it goes with its descriptor."""
        return os.open(self._path, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)

    def entries(self) -> Iterator[tuple[str, int, float]]:
        """Digest, bytes and time of last change of everything here, half or whole."""
        with os.scandir(self._path) as found:
            for entry in found:
                digest = "sha256:" + entry.name.removesuffix(_PART)
                if DIGEST.fullmatch(digest):
                    status = entry.stat(follow_symlinks=False)
                    yield digest, status.st_size, status.st_mtime


class Incoming:
    """A blob being written. One at a time for one digest: the caller sees to that."""

    def __init__(self, blobs: Blobs, digest: str, size: int) -> None:
        self._blobs, self._digest, self.size = blobs, digest, size
        self._part = blobs.path(digest) + _PART
        self._descriptor = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._hash = hashlib.sha256()
        self.have = 0
        try:
            self._take_in()
        except BaseException:
            self.close()
            raise

    def _take_in(self) -> None:
        """Hash what an earlier try has left. Whether it was right is seen at the end."""
        if os.fstat(self._descriptor).st_size > self.size:
            os.ftruncate(self._descriptor, 0)
        while block := os.read(self._descriptor, _CHUNK):
            self._hash.update(block)
            self.have += len(block)

    def restart(self) -> None:
        """From the beginning: the registry does not do ranges, or what was left is not right."""
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self._hash, self.have = hashlib.sha256(), 0

    def write(self, data: bytes) -> None:
        """Append. Raises ``Mismatch`` as soon as there is more than there should be."""
        if self.have + len(data) > self.size:
            raise Mismatch(f"the blob {self._digest} has more than the {self.size} bytes that were told")
        self._hash.update(data)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        self.have += len(data)

    def finish(self) -> None:
        """Verify, and give it its name, durably. Raises ``Mismatch``; nothing of it is left then."""
        if self.have != self.size or f"sha256:{self._hash.hexdigest()}" != self._digest:
            os.unlink(self._part)
            raise Mismatch(f"the blob {self._digest} came with {self.have} bytes that are not its own")
        os.fsync(self._descriptor)
        os.rename(self._part, self._blobs.path(self._digest))
        self._blobs.sync()

    def drop(self) -> None:
        """Remove what was written."""
        try:
            os.unlink(self._part)
        except FileNotFoundError:
            pass

    def close(self) -> None:
        """Keep what was written, for another time."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
