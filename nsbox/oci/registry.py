"""A client of the OCI distribution protocol, for reading: manifests and blobs of one repository.

Whatever a registry says is hostile: every answer is bounded in bytes and in time, redirects are followed by
hand (no credentials beyond the host they are for, nothing but http and https, no private places), and what
has a digest is believed only when it has been hashed. Nothing here writes to disk.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractContextManager, aclosing, asynccontextmanager
from urllib.parse import urljoin, urlsplit

import httpx2
import msgspec
import trio

from nsbox import __version__
from nsbox.oci import challenge
from nsbox.oci.credentials import Credentials
from nsbox.oci.dialer import Dialer, is_loopback
from nsbox.oci.manifests import ACCEPT, MAX_DOCUMENT
from nsbox.oci.registry_errors import (
    Denied,
    NotThere,
    Passing,
    Patience,
    RegistryError,
    Unfit,
    in_the_clear,
    persistently,
    told_by,
)
from nsbox.oci.tokens import Tokens
from nsbox.oci.transport import Transport

_MOST_REDIRECTS = 5
_MOST_CONNECTIONS = 16
_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_MOVED = frozenset({301, 302, 303, 307, 308})


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One place to ask: a registry or a mirror of one. ``plain``: without TLS. ``private``: it may send us to
    private addresses. ``plain_hosts``: others that may be spoken to without TLS."""

    host: str
    plain: bool = False
    private: bool = False
    ca_file: str = ""
    plain_hosts: frozenset[str] = frozenset()
    credentials: Credentials | None = None

    @property
    def base(self) -> str:
        return f"{'http' if self.plain else 'https'}://{self.host}"


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


class Registry:
    """One repository at one endpoint, for as long as a pull lasts."""

    def __init__(self, endpoint: Endpoint, repository: str, patience: Patience) -> None:
        self.endpoint, self.repository, self.patience = endpoint, repository, patience
        self._dialer = Dialer(urlsplit(endpoint.base).hostname or "", private=endpoint.private)
        self._client = httpx2.AsyncClient(
            transport=Transport(self._dialer, _context(endpoint), _MOST_CONNECTIONS),
            trust_env=False,
            follow_redirects=False,
            timeout=httpx2.Timeout(patience.silence, connect=patience.connect),
            headers={"User-Agent": f"nsbox/{__version__}", "Accept-Encoding": "identity"},
        )
        self._tokens = Tokens(endpoint.credentials, f"repository:{repository}:pull", self._token_service)

    async def __aenter__(self) -> Registry:
        return self

    async def __aexit__(self, *error: object) -> None:
        with trio.CancelScope(shield=True):
            await self._client.aclose()

    def _told(self) -> AbstractContextManager[None]:
        return told_by(self.endpoint.host, plain=self.endpoint.plain)

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
        with self._told():
            async with self._asked(f"blobs/{digest}", headers) as response:
                if response.status_code == 206:
                    if not response.headers.get("content-range", "").startswith(f"bytes {offset}-"):
                        raise Unfit("the registry sent another part of a blob than it was asked for")
                    yield Body(response, offset, self.patience)
                else:
                    self._check(response, "a layer of the image")
                    yield Body(response, 0, self.patience)

    async def _document(self, below: str, accept: str) -> Document:
        with self._told(), trio.move_on_after(self.patience.document):
            async with self._asked(below, {"Accept": accept}) as response:
                self._check(response, "the image")
                data = await _read(response, MAX_DOCUMENT)
                found = response.headers
                return Document(data, found.get("content-type", ""), found.get("docker-content-digest", ""))
        raise Unfit(f"{self.endpoint.host} sent no whole answer within {self.patience.document:g} s")

    async def _token_service(
        self, method: str, url: str, headers: dict[str, str], body: bytes | None
    ) -> tuple[int, bytes]:
        """It may be on another host: its address is looked at like that of a redirect."""
        self._check_url(url)
        with told_by(urlsplit(url).netloc), trio.move_on_after(self.patience.document):
            request = self._client.build_request(method, url, headers=headers, content=body)
            response = await self._client.send(request, stream=True)
            try:
                if response.status_code in _RETRIED:
                    sentence = f"the token service of {self.endpoint.host} answers {response.status_code}"
                    raise Passing(sentence, _retry_after(response))
                return response.status_code, await _read(response, 1 << 20)
            finally:
                await _close(response)
        raise Unfit(f"the token service of {self.endpoint.host} sent no whole answer in time")

    @asynccontextmanager
    async def _asked(self, below: str, headers: dict[str, str]) -> AsyncIterator[httpx2.Response]:
        """The answer to a GET; a token is fetched when one is asked for, redirects are followed."""
        url = f"{self.endpoint.base}/v2/{self.repository}/{below}"
        used = self._tokens.authorization
        response = await self._get(url, headers)
        try:
            if response.status_code == 401:
                wanted = challenge.chosen(response.headers.get_list("www-authenticate"))
                await _close(response)
                await self._tokens.renew(wanted, used)
                response = await self._get(url, headers)
            for _ in range(_MOST_REDIRECTS):
                if response.status_code not in _MOVED:
                    break
                url = self._joined(str(response.url), response.headers.get("location", ""))
                await _close(response)
                response = await self._get(url, headers)
            if response.status_code in _MOVED:
                raise Unfit(f"{self.endpoint.host} redirects more than {_MOST_REDIRECTS} times")
            yield response
        finally:
            await _close(response)

    async def _get(self, url: str, headers: dict[str, str]) -> httpx2.Response:
        self._check_url(url)
        if url.startswith(f"{self.endpoint.base}/") and self._tokens.authorization is not None:
            headers = {**headers, "Authorization": self._tokens.authorization}
        # A redirect may lead elsewhere: whoever fails is named.
        with told_by(urlsplit(url).netloc, plain=url.startswith("http:")):
            request = self._client.build_request("GET", url, headers=headers)
            return await self._client.send(request, stream=True)

    def _joined(self, url: str, location: str) -> str:
        try:
            return urljoin(url, location)
        except ValueError as error:
            raise Unfit(f"{self.endpoint.host} redirects to what is no address") from error

    def _check_url(self, url: str) -> None:
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise Unfit(f"{self.endpoint.host} redirects to what is no address") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            scheme = parts.scheme[:20] or "nothing"
            raise Unfit(f"{self.endpoint.host} redirects to {scheme}:, which is neither http nor https")
        if parts.scheme == "http" and not self.endpoint.plain:
            host = parts.netloc.lower()
            if host not in self.endpoint.plain_hosts and not is_loopback(host):
                raise Unfit(f"{self.endpoint.host} redirects to {host[:200]} without TLS")

    def _check(self, response: httpx2.Response, what: str) -> None:
        status, host = response.status_code, self.endpoint.host
        if status == 200:
            return
        if status in _RETRIED:
            raise Passing(f"{host} answers {status}", _retry_after(response))
        if status == 404:
            raise NotThere(f"{host} does not have {what}")
        if status in (401, 403) and self.endpoint.credentials is None:
            raise Denied(f"{host} does not give {what} to strangers, or does not have it")
        if status in (401, 403):
            raise Denied(f"{host} does not give {what} to whom the credentials for it belong")
        maybe_tls = status == 400 and self.endpoint.plain
        raise Unfit(f"{host} answers {status}", remedy=in_the_clear(host) if maybe_tls else "")


def _context(endpoint: Endpoint) -> ssl.SSLContext:
    """The host's own certificates, and the one that the settings add."""
    if endpoint.plain:  # nothing to verify, and reading all certificates takes its time
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context = ssl.create_default_context()
    if endpoint.ca_file:
        try:
            context.load_verify_locations(endpoint.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise RegistryError(
                f"the CA file for {endpoint.host} cannot be read: {error.strerror}",
                remedy=f"let the operator see to it: {endpoint.ca_file}",
            ) from error
    return context


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds; its other form, a date, is left to our own waits."""
    text = response.headers.get("retry-after", "").strip()
    return float(text[:6]) if text.isascii() and text.isdigit() else None


async def _close(response: httpx2.Response) -> None:
    with trio.CancelScope(shield=True):
        await response.aclose()


async def _read(response: httpx2.Response, limit: int) -> bytes:
    data = bytearray()
    async with aclosing(response.aiter_raw()) as stream:
        async for piece in stream:
            data += piece
            if len(data) > limit:
                raise Unfit(f"an answer has more than {limit} bytes")
    return bytes(data)
