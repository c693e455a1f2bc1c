"""``sandbox.files``."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import IO

from nsbox.client.asynchronous import waiting
from nsbox.client.asynchronous.bytes import collect, fetch_to, put
from nsbox.client.asynchronous.method import AsyncMethod, AsyncScope
from nsbox.client.asynchronous.sending import AsyncContent, AsyncUpload
from nsbox.client.fetching import Fetching
from nsbox.client.routes import files
from nsbox.client.sending import Tell
from nsbox.client.types.file import Written


class AsyncFiles(AsyncScope):
    """Files of a sandbox, as its root. Paths are absolute; bytes where they are not UTF-8."""

    list = AsyncMethod(files.get_all)
    remove = AsyncMethod(files.remove)

    async def read(self, path: files.Path) -> bytes:
        """A whole file."""
        return await collect(self.stream(path))

    async def read_text(self, path: files.Path) -> str:
        """A whole file, in UTF-8."""
        data = await self.read(path)
        return data.decode()

    async def write(
        self,
        path: files.Path,
        content: AsyncContent,
        *,
        mode: str | None = None,
        progress: Tell | None = None,
    ) -> Written:
        """Make or replace a file, as a whole. Missing folders are made. ``mode``: octal digits."""
        request = files.upload(self._at, path, mode)
        return await put(self._driver, request, AsyncUpload(content, progress), files.written)

    async def upload(
        self,
        source: str | os.PathLike[str],
        path: files.Path,
        *,
        mode: str | None = None,
        progress: Tell | None = None,
    ) -> Written:
        """A local file into the sandbox. Without ``mode`` a new one gets what the local one has."""
        with await waiting.in_thread(open, source, "rb") as file:
            mode = mode or f"{os.fstat(file.fileno()).st_mode & 0o777:04o}"
            return await self.write(path, file, mode=mode, progress=progress)

    async def download(
        self,
        path: files.Path,
        target: str | os.PathLike[str] | IO[bytes],
        *,
        progress: Tell | None = None,
    ) -> int:
        """A file of the sandbox to a local one, which is there whole or not at all, or into an open file that
        can be sought. The number of bytes."""
        return await fetch_to(self._driver, files.download(self._at, path), target, progress)

    async def stream(self, path: files.Path) -> AsyncGenerator[bytes, None]:
        """A file as it comes. ``aclosing`` leaves it early. Broken off, it goes on if it is the same."""
        request = files.download(self._at, path)
        fetching = Fetching(request, self._driver.attempts(), can_restart=False)
        async with aclosing(self._driver.fetch(fetching)) as pieces:
            async for _, piece in pieces:
                yield piece
