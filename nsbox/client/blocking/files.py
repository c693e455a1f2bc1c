# Made from asynchronous/files.py by scripts/blocking_client.py: change that one, and run it.
"""``sandbox.files``."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import closing
from typing import IO

from nsbox.client.blocking import waiting
from nsbox.client.blocking.bytes import collect, fetch_to, put
from nsbox.client.blocking.method import Method, Scope
from nsbox.client.fetching import Fetching
from nsbox.client.routes import files
from nsbox.client.sending import Content, Tell, Upload
from nsbox.client.types.file import Written


class Files(Scope):
    """Files of a sandbox, as its root. Paths are absolute; bytes where they are not UTF-8."""

    list = Method(files.get_all)
    remove = Method(files.remove)

    def read(self, path: files.Path) -> bytes:
        """A whole file."""
        return collect(self.stream(path))

    def read_text(self, path: files.Path) -> str:
        """A whole file, in UTF-8."""
        data = self.read(path)
        return data.decode()

    def write(
        self,
        path: files.Path,
        content: Content,
        *,
        mode: str | None = None,
        progress: Tell | None = None,
    ) -> Written:
        """Make or replace a file, as a whole. Missing folders are made. ``mode``: octal digits."""
        request = files.upload(self._at, path, mode)
        return put(self._driver, request, Upload(content, progress), files.written)

    def upload(
        self,
        source: str | os.PathLike[str],
        path: files.Path,
        *,
        mode: str | None = None,
        progress: Tell | None = None,
    ) -> Written:
        """A local file into the sandbox. Without ``mode`` a new one gets what the local one has."""
        with waiting.in_thread(open, source, "rb") as file:
            mode = mode or f"{os.fstat(file.fileno()).st_mode & 0o777:04o}"
            return self.write(path, file, mode=mode, progress=progress)

    def download(
        self,
        path: files.Path,
        target: str | os.PathLike[str] | IO[bytes],
        *,
        progress: Tell | None = None,
    ) -> int:
        """A file of the sandbox to a local one, which is there whole or not at all, or into an open file that
        can be sought. The number of bytes."""
        return fetch_to(self._driver, files.download(self._at, path), target, progress)

    def stream(self, path: files.Path) -> Generator[bytes, None, None]:
        """A file as it comes. ``closing`` leaves it early. Broken off, it goes on if it is the same."""
        request = files.download(self._at, path)
        fetching = Fetching(request, self._driver.attempts(), can_restart=False)
        with closing(self._driver.fetch(fetching)) as pieces:
            for _, piece in pieces:
                yield piece
