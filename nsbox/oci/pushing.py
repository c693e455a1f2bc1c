"""A client of the OCI distribution protocol, for writing: blobs and a manifest of one repository.

A blob is sent by POST and one PUT of all of it, as containerd does: every registry takes that. What was
interrupted is sent from its beginning; the half of it is the registry's to throw away. The registry hashes
what it gets: it is told the digest.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncGenerator, Callable
from typing import NamedTuple
from urllib.parse import urlencode

import httpx2
import msgspec
import trio

from nsbox.oci.registry_errors import (
    Denied,
    NotThere,
    Passing,
    Patience,
    RegistryError,
    TooLarge,
    Unfit,
    in_the_clear,
    persistently,
)
from nsbox.oci.session import MOVED, RETRIED, Endpoint, Session, close, read, retry_after

_OCTETS = {"Content-Type": "application/octet-stream"}
_MOST_ADDRESS = 8_192
_MOST_WORDS = 64 << 10
#: For what is of no use but to be polite, or to say more of an error.
_SHORTLY = 5.0
_DIGEST = "docker-content-digest"
_CODE = re.compile(r"[A-Z][A-Z_]{2,40}")


class _Fault(msgspec.Struct, frozen=True):
    code: str = ""


class _Faults(msgspec.Struct, frozen=True):
    errors: list[_Fault] = []


class Outgoing(httpx2.AsyncByteStream):
    """A body that is sent as it comes. Not a generator: one that is left half-way would be closed by the
    garbage collector, which trio tells of."""

    def __init__(
        self, pieces: AsyncGenerator[bytes, None], patience: Patience, told: Callable[[int], None]
    ) -> None:
        self._pieces, self._patience, self._told = pieces, patience, told
        self._sent, self._given = 0, 0.0
        self._waited, self._brought = 0.0, 0

    def __aiter__(self) -> Outgoing:
        return self

    async def __anext__(self) -> bytes:
        self._look()
        piece = await anext(self._pieces)
        self._sent += len(piece)
        self._brought += len(piece)
        self._told(self._sent)
        self._given = trio.current_time()
        return piece

    def _look(self) -> None:
        """What the other side takes too slowly is given up: dripping is no better than silence. The time that
        our own disk takes is not its fault."""
        if self._given:
            self._waited += trio.current_time() - self._given
        if self._waited >= self._patience.stretch:
            if self._brought < self._patience.stretch_bytes:
                raise Unfit(f"the registry takes too slowly: {self._brought} bytes in {self._waited:.0f} s")
            self._waited, self._brought = 0.0, 0

    async def aclose(self) -> None:
        """Whoever made the pieces closes them."""


class Said(NamedTuple):
    """An answer, all of it."""

    status: int
    headers: httpx2.Headers
    url: str
    data: bytes


class Target(Session):
    """One repository to push to."""

    def __init__(self, endpoint: Endpoint, repository: str, patience: Patience) -> None:
        # A registry asks for "pull" when it is asked whether it has something: with the whole at once, one
        # token does for all.
        super().__init__(endpoint, repository, patience, "pull,push", insist=True)

    async def has(self, digest: str, size: int) -> bool:
        """Whether the repository has a blob. Raises ``RegistryError``."""
        said = await self._persistently("HEAD", self.url(f"blobs/{digest}"))
        if said.status == 200:
            # One of another size is not it: the manifest would be refused or, worse, taken.
            return said.headers.get("content-length", str(size)) == str(size)
        if said.status in (400, 404, 405) or not said.url.startswith(f"{self.endpoint.base}/"):
            return False  # so it is sent
        raise self._fault(said, "a layer")

    async def mount(self, digest: str, repository: str) -> bool:
        """Have a blob from another repository of the same registry, without its bytes. False when that cannot
        be, for whatever reason: it can be sent then. Raises ``Passing``."""
        asked = urlencode({"mount": digest, "from": repository})
        try:
            said = await self._persistently("POST", f"{self.url('blobs/uploads/')}?{asked}")
            if said.status == 202:  # it has begun an upload instead
                await self._give_up(self._place(said))
        except (Denied, Unfit):
            return False
        return said.status == 201 and said.headers.get(_DIGEST, digest) == digest

    async def send(
        self,
        digest: str,
        size: int,
        pieces: AsyncGenerator[bytes, None],
        told: Callable[[int], None],
    ) -> None:
        """When this returns, the registry has the blob. One try: the caller begins anew after ``Passing``.
        Raises ``RegistryError``, and what ``pieces`` raise."""
        said = await self._ask("POST", self.url("blobs/uploads/"))
        if said.status not in (201, 202):
            raise self._fault(said, "a layer")
        place = self._place(said)
        url = f"{place}{'&' if '?' in place else '?'}{urlencode({'digest': digest})}"
        try:
            said = await self._put(url, size, Outgoing(pieces, self.patience, told))
            if said.status not in (201, 204):
                raise self._fault(said, f"a layer of {size} bytes")
            self._check_digest(said, digest)
        except RegistryError:
            await self._give_up(place)
            raise

    async def tag(self, tag: str, manifest: bytes, media_type: str, digest: str) -> None:
        """The last step: from here on the image is there. Raises ``RegistryError``."""
        said = await self._persistently(
            "PUT", self.url(f"manifests/{tag}"), {"Content-Type": media_type}, manifest
        )
        if said.status not in (200, 201, 202):
            raise self._fault(said, "the image's manifest")
        self._check_digest(said, digest)

    async def _persistently(
        self, method: str, url: str, headers: dict[str, str] | None = None, content: bytes | None = None
    ) -> Said:
        return await persistently(self.patience, lambda: self._ask(method, url, headers, content))

    async def _ask(
        self, method: str, url: str, headers: dict[str, str] | None = None, content: bytes | None = None
    ) -> Said:
        """Raises ``RegistryError``; ``Passing`` also for a status that passes."""
        with self.told(), trio.move_on_after(self.patience.document):
            async with self.asked(method, url, headers or {}, content) as response:
                return await self._whole(response)
        raise Unfit(f"{self.endpoint.host} sent no whole answer within {self.patience.document:g} s")

    async def _put(self, url: str, size: int, body: Outgoing) -> Said:
        used = self.authorization
        request = self.request("PUT", url, {**_OCTETS, "Content-Length": str(size)}, b"")
        request.stream = body
        waits = self.patience
        silence = httpx2.Timeout(waits.silence, connect=waits.connect, read=waits.stored)
        request.extensions["timeout"] = silence.as_dict()
        with self.told_at(url):
            response = await self._client.send(request, stream=True)
            try:
                if response.status_code == 401:  # a token that was in force when it began
                    await self.renew(response, used)
                    raise Passing(f"{self.endpoint.host} wants a new token", 0.0)
                with trio.move_on_after(self.patience.document):
                    return await self._whole(response)
            finally:
                await close(response)
        raise Unfit(f"{self.endpoint.host} sent no whole answer within {self.patience.document:g} s")

    async def _whole(self, response: httpx2.Response) -> Said:
        """The answer is read to its end, or its connection could not be used again."""
        status = response.status_code
        if status in RETRIED:
            raise Passing(f"{self.endpoint.host} answers {status}", retry_after(response.headers))
        data = b""
        if status < 400:
            data = await read(response, _MOST_WORDS)
        else:  # the status is what counts
            with trio.move_on_after(_SHORTLY), contextlib.suppress(RegistryError), self.told():
                data = await read(response, _MOST_WORDS)
        return Said(status, response.headers, str(response.url), data)

    def _place(self, said: Said) -> str:
        """Where a blob is to be sent to."""
        location = said.headers.get("location", "")
        if not location or len(location) > _MOST_ADDRESS:
            raise Unfit(f"{self.endpoint.host} does not say where to send a layer to")
        url = self.joined(said.url, location)
        self.check_url(url)
        return url

    async def _give_up(self, place: str) -> None:
        """So that the registry need not find out by itself."""
        with trio.move_on_after(_SHORTLY), contextlib.suppress(RegistryError):
            await self._ask("DELETE", place)

    def _check_digest(self, said: Said, digest: str) -> None:
        if said.headers.get(_DIGEST, digest) != digest:
            raise Unfit(f"{self.endpoint.host} says that it got something else than was sent")

    def _fault(self, said: Said, what: str) -> RegistryError:
        """What a status means that is not the one there should be."""
        status, host, words = said.status, self.endpoint.host, _codes(said.data)
        if status in (401, 403):
            who = "strangers" if self.endpoint.credentials is None else "whom nsbox has credentials of"
            return Denied(f"{host} does not let {who} push to {self.repository}{words}")
        if status == 404:
            return NotThere(f"{host} has no repository {self.repository}, and makes none{words}")
        if status == 413:
            return TooLarge(f"{host} does not take {what}{words}")
        if status in MOVED:
            return Unfit(f"{host} redirects what is pushed ({status})")
        maybe_tls = status == 400 and self.endpoint.plain and not words
        remedy = in_the_clear(host) if maybe_tls else ""
        return Unfit(f"{host} answers {status} to {what}{words}", remedy=remedy)


def _codes(data: bytes) -> str:
    """The codes of the registry's own words, as the specification has them; nothing else of it is told."""
    try:
        faults = msgspec.json.decode(data, type=_Faults).errors
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    codes = dict.fromkeys(one.code for one in faults[:8] if _CODE.fullmatch(one.code))
    return f" ({', '.join(codes)})" if codes else ""
