"""``AsyncClient``: one nsbox, one key."""

from __future__ import annotations

import ssl
from types import TracebackType
from typing import Self

from nsbox.client.address import from_environment
from nsbox.client.agent import AGENT, acting_for
from nsbox.client.asynchronous.connections import AsyncConnections
from nsbox.client.asynchronous.driver import AsyncDriver, AsyncTransport
from nsbox.client.asynchronous.images import AsyncImages, AsyncSnapshots, AsyncTemplates
from nsbox.client.asynchronous.method import AsyncMade, AsyncMethod, AsyncScope
from nsbox.client.asynchronous.sandbox import AsyncSandbox
from nsbox.client.call import Call, T
from nsbox.client.retries import Retries
from nsbox.client.routes import accounts, sandboxes
from nsbox.client.types.account import Health
from nsbox.client.types.sandbox import SandboxInfo


class AsyncKeys(AsyncScope):
    """Your API keys."""

    list = AsyncMethod(accounts.keys)
    create = AsyncMethod(accounts.create_key)
    revoke = AsyncMethod(accounts.revoke_key)


class AsyncUsers(AsyncScope):
    """Users (for admins)."""

    list = AsyncMethod(accounts.users)
    get = AsyncMethod(accounts.user)
    create = AsyncMethod(accounts.create_user)
    update = AsyncMethod(accounts.update_user)
    remove = AsyncMethod(accounts.remove_user)


def _sandbox(scope: AsyncScope, info: SandboxInfo) -> AsyncSandbox:
    return AsyncSandbox(scope._driver, info.id, info)


def _sandboxes(scope: AsyncScope, found: list[SandboxInfo]) -> list[AsyncSandbox]:
    return [_sandbox(scope, info) for info in found]


class AsyncClient(AsyncScope):
    """An nsbox. What is not given is in ``NSBOX_URL`` and ``NSBOX_API_KEY``.

    ``user``: act for this user (admins). ``ssl_context``: for https, instead of the host's certificates.
    ``connect_timeout`` in seconds. Proxies of the environment are not used.
    """

    create = AsyncMade(sandboxes.create, _sandbox)
    get = AsyncMade(sandboxes.find, _sandbox)
    list = AsyncMade(sandboxes.get_all, _sandboxes)
    me = AsyncMethod(accounts.me)
    usage = AsyncMethod(accounts.usage)
    usage_csv = AsyncMethod(accounts.usage_csv)
    audit = AsyncMethod(accounts.audit)
    metrics = AsyncMethod(accounts.metrics)

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        user: str | None = None,
        retries: Retries = Retries(),  # noqa: B008 - it cannot be changed
        connect_timeout: float = 10.0,
        ssl_context: ssl.SSLContext | None = None,
        transport: AsyncTransport | None = None,
    ) -> None:
        where, secret = from_environment(url, key)
        if transport is None:
            transport = AsyncConnections(where, secret, AGENT, connect_timeout, ssl_context)
        super().__init__(AsyncDriver(transport, secret, retries, acting_for(user)), "")
        self.url = where.url
        self.images = AsyncImages(self._driver, "")
        self.templates = AsyncTemplates(self._driver, "")
        self.snapshots = AsyncSnapshots(self._driver, "")
        self.keys = AsyncKeys(self._driver, "")
        self.users = AsyncUsers(self._driver, "")

    def __repr__(self) -> str:
        return f"<AsyncClient {self.url}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close its connections, also those that somebody waits on. Sandboxes go on."""
        await self._driver.close()

    def sandbox(self, sandbox_id: str) -> AsyncSandbox:
        """A sandbox by its id, without asking whether it is there."""
        return AsyncSandbox(self._driver, sandbox_id)

    async def raw(self, call: Call[T]) -> bytes:
        """The answer to a call of ``nsbox.client.routes`` as it came, with what is not known here."""
        return await self._driver.do(call.raw)

    async def health(self) -> Health:
        """Whether sandboxes can be made. Not tried again: that it is away is an answer, too."""
        answer = await self._driver.ask(accounts.HEALTH)
        return accounts.read_health(answer.status, answer.body)
