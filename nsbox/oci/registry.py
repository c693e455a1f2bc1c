"""A client of the OCI distribution protocol, for reading: manifests and blobs of one repository.

What has a digest is believed only when it has been hashed. Nothing here writes to disk.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import httpx2
import msgspec
import trio

from nsbox.oci.manifests import ACCEPT, MAX_DOCUMENT
from nsbox.oci.registry_errors import Denied, NotThere, Passing, Patience, Unfit, in_the_clear, persistently
from nsbox.oci.session import RETRIED, Endpoint, Session, read, retry_after


class Document(msgspec.Struct, frozen=True):
    """A small answer, in memory. ``digest`` is what the registry says it is, if it says so."""

    data: bytes
    media_type: str
    digest: str


class Body:
    """A blob on its way. ``offset`` is where it begins: a registry may ignore that less was asked for."""

    def __init__(self, response: httpx2.Response, offset: int, patience: Patience) -> None:
        self.offset = offset
        self._response, self._patience = response, patience

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Raises ``Unfit`` when they come too slowly. Close it (``aclosing``)."""
        ends, brought = trio.current_time() + self._patience.stretch, 0
        async with aclosing(self._response.aiter_raw()) as stream:
            async for piece in stream:
                brought += len(piece)
                if trio.current_time() >= ends:
                    if brought < self._patience.stretch_bytes:
                        raise Unfit(
                            f"the registry sends too slowly: {brought} bytes in {self._patience.stretch:g} s"
                        )
                    ends, brought = trio.current_time() + self._patience.stretch, 0
                yield piece


class Registry(Session):
    """One repository at one endpoint, for as long as a pull lasts."""

    def __init__(self, endpoint: Endpoint, repository: str, patience: Patience) -> None:
        super().__init__(endpoint, repository, patience, "pull")

    async def manifest(self, wanted: str) -> Document:
        """A manifest or a list by tag or digest. Hashing it is the caller's. Raises ``RegistryError``."""
        return await persistently(self.patience, lambda: self._document(f"manifests/{wanted}", ACCEPT))

    async def document(self, digest: str) -> Document:
        """A small blob, such as a config. Raises ``RegistryError``."""
        return await persistently(self.patience, lambda: self._document(f"blobs/{digest}", "*/*"))

    @asynccontextmanager
    async def blob(self, digest: str, offset: int = 0) -> AsyncIterator[Body]:
        """A blob from ``offset`` on, or from its beginning where the registry does not do ranges.

        One try: the caller goes on where it stands, after ``Passing``. Raises ``RegistryError``.
        """
        headers = {"Accept": "*/*"} | ({"Range": f"bytes={offset}-"} if offset else {})
        with self.told():
            async with self.asked("GET", self.url(f"blobs/{digest}"), headers) as response:
                if response.status_code == 206:
                    if not response.headers.get("content-range", "").startswith(f"bytes {offset}-"):
                        raise Unfit("the registry sent another part of a blob than it was asked for")
                    yield Body(response, offset, self.patience)
                else:
                    self._check(response, "a layer of the image")
                    yield Body(response, 0, self.patience)

    async def _document(self, below: str, accept: str) -> Document:
        with self.told(), trio.move_on_after(self.patience.document):
            async with self.asked("GET", self.url(below), {"Accept": accept}) as response:
                self._check(response, "the image")
                data = await read(response, MAX_DOCUMENT)
                found = response.headers
                return Document(data, found.get("content-type", ""), found.get("docker-content-digest", ""))
        raise Unfit(f"{self.endpoint.host} sent no whole answer within {self.patience.document:g} s")

    def _check(self, response: httpx2.Response, what: str) -> None:
        status, host = response.status_code, self.endpoint.host
        if status == 200:
            return
        if status in RETRIED:
            raise Passing(f"{host} answers {status}", retry_after(response.headers))
        if status == 404:
            raise NotThere(f"{host} does not have {what}")
        if status in (401, 403) and self.endpoint.credentials is None:
            raise Denied(f"{host} does not give {what} to strangers, or does not have it")
        if status in (401, 403):
            raise Denied(f"{host} does not give {what} to whom the credentials for it belong")
        maybe_tls = status == 400 and self.endpoint.plain
        raise Unfit(f"{host} answers {status}", remedy=in_the_clear(host) if maybe_tls else "")
