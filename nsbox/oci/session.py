"""What reading from a registry and writing to one have in common: connections, tokens, redirects, refusals.

Whatever a registry says is hostile: every answer is bounded in bytes and in time, redirects are followed by
hand (no credentials beyond the host they are for, nothing but http and https, no private places).
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, aclosing, asynccontextmanager
from typing import TypeVar
from urllib.parse import urljoin, urlsplit

import httpx2
import msgspec
import trio

from nsbox import __version__
from nsbox.oci import challenge
from nsbox.oci.credentials import Credentials
from nsbox.oci.dialer import Dialer, is_loopback
from nsbox.oci.registry_errors import (
    Passing,
    Patience,
    RegistryError,
    Unfit,
    told_by,
)
from nsbox.oci.tokens import Tokens
from nsbox.oci.transport import Transport

_MOST_REDIRECTS = 5
_MOST_CONNECTIONS = 16
#: Statuses that pass.
RETRIED = frozenset({408, 429, 500, 502, 503, 504})
#: Redirects; the last two keep the method, the others make a GET of it.
MOVED = frozenset({301, 302, 303, 307, 308})
_KEPT = frozenset({307, 308})
_READS = frozenset({"GET", "HEAD"})
_Self = TypeVar("_Self", bound="Session")


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


class Session:
    """One repository at one endpoint, for as long as a pull or a push lasts. ``actions`` are what a token
    must allow; ``insist``: also when the registry asks for less."""

    def __init__(
        self, endpoint: Endpoint, repository: str, patience: Patience, actions: str, *, insist: bool = False
    ) -> None:
        self.endpoint, self.repository, self.patience = endpoint, repository, patience
        self._dialer = Dialer(urlsplit(endpoint.base).hostname or "", private=endpoint.private)
        self._client = httpx2.AsyncClient(
            transport=Transport(self._dialer, _context(endpoint), _MOST_CONNECTIONS),
            trust_env=False,
            follow_redirects=False,
            timeout=httpx2.Timeout(patience.silence, connect=patience.connect),
            headers={"User-Agent": f"nsbox/{__version__}", "Accept-Encoding": "identity"},
        )
        scope = f"repository:{repository}:{actions}"
        self._tokens = Tokens(endpoint.credentials, scope, self._token_service, insist=insist)

    async def __aenter__(self: _Self) -> _Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        with trio.CancelScope(shield=True):
            await self._client.aclose()

    def told(self) -> AbstractContextManager[None]:
        """What the HTTP client raises, as ``RegistryError``."""
        return told_by(self.endpoint.host, plain=self.endpoint.plain)

    def url(self, below: str) -> str:
        """Something of the repository."""
        return f"{self.endpoint.base}/v2/{self.repository}/{below}"

    @asynccontextmanager
    async def asked(
        self, method: str, url: str, headers: dict[str, str], content: bytes | None = None
    ) -> AsyncIterator[httpx2.Response]:
        """The answer; a token is fetched when one is asked for, redirects are followed."""
        used = self._tokens.authorization
        response = await self._sent(method, url, headers, content)
        try:
            if response.status_code == 401:
                await self.renew(response, used)
                response = await self._sent(method, url, headers, content)
            for _ in range(_MOST_REDIRECTS):
                if response.status_code not in MOVED or not self._follows(method, response.status_code):
                    break
                url = self.joined(str(response.url), response.headers.get("location", ""))
                await close(response)
                response = await self._sent(method, url, headers, content)
            if response.status_code in MOVED and self._follows(method, response.status_code):
                raise Unfit(f"{self.endpoint.host} redirects more than {_MOST_REDIRECTS} times")
            yield response
        finally:
            await close(response)

    @staticmethod
    def _follows(method: str, status: int) -> bool:
        return method in _READS or status in _KEPT

    @property
    def authorization(self) -> str | None:
        """What requests to the registry itself are sent with at present."""
        return self._tokens.authorization

    async def renew(self, response: httpx2.Response, refused: str | None) -> None:
        """After a 401 to what was sent with ``refused``. Raises ``RegistryError``."""
        wanted = challenge.chosen(response.headers.get_list("www-authenticate"))
        await close(response)
        await self._tokens.renew(wanted, refused)

    async def _sent(
        self, method: str, url: str, headers: dict[str, str], content: bytes | None
    ) -> httpx2.Response:
        # A redirect may lead elsewhere: whoever fails is named.
        with self.told_at(url):
            return await self._client.send(self.request(method, url, headers, content), stream=True)

    def told_at(self, url: str) -> AbstractContextManager[None]:
        """As ``told``, for whoever is at ``url``."""
        return told_by(urlsplit(url).netloc, plain=url.startswith("http:"))

    def request(
        self, method: str, url: str, headers: dict[str, str], content: bytes | None = None
    ) -> httpx2.Request:
        """To an address that may be asked, and with the authorization if that is the registry's own."""
        self.check_url(url)
        if url.startswith(f"{self.endpoint.base}/") and self._tokens.authorization is not None:
            headers = {**headers, "Authorization": self._tokens.authorization}
        with self.told_at(url):
            return self._client.build_request(method, url, headers=headers, content=content)

    def joined(self, url: str, location: str) -> str:
        """Where an answer of ``url`` leads."""
        try:
            return urljoin(url, location)
        except ValueError as error:
            raise Unfit(f"{self.endpoint.host} redirects to what is no address") from error

    def check_url(self, url: str) -> None:
        """Raises ``Unfit`` for an address that no registry may lead to, by what is written there."""
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

    async def _token_service(
        self, method: str, url: str, headers: dict[str, str], body: bytes | None
    ) -> tuple[int, bytes]:
        """It may be on another host: its address is looked at like that of a redirect."""
        self.check_url(url)
        with told_by(urlsplit(url).netloc), trio.move_on_after(self.patience.document):
            request = self._client.build_request(method, url, headers=headers, content=body)
            response = await self._client.send(request, stream=True)
            try:
                if response.status_code in RETRIED:
                    sentence = f"the token service of {self.endpoint.host} answers {response.status_code}"
                    raise Passing(sentence, retry_after(response.headers))
                return response.status_code, await read(response, 1 << 20)
            finally:
                await close(response)
        raise Unfit(f"the token service of {self.endpoint.host} sent no whole answer in time")


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


def retry_after(headers: httpx2.Headers) -> float | None:
    """Seconds; its other form, a date, is left to our own waits."""
    text = headers.get("retry-after", "").strip()
    return float(text[:6]) if text.isascii() and text.isdigit() else None


async def close(response: httpx2.Response) -> None:
    """Let go of it, also when cancelled."""
    with trio.CancelScope(shield=True):
        await response.aclose()


async def read(response: httpx2.Response, limit: int) -> bytes:
    """The body. Raises ``Unfit`` when it has more."""
    data = bytearray()
    async with aclosing(response.aiter_raw()) as stream:
        async for piece in stream:
            data += piece
            if len(data) > limit:
                raise Unfit(f"an answer has more than {limit} bytes")
    return bytes(data)
