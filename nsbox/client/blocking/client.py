# Made from asynchronous/client.py by scripts/blocking_client.py: change that one, and run it.
"""``Client``: one nsbox, one key."""

from __future__ import annotations

import ssl
from types import TracebackType
from typing import Self

from nsbox.client.address import from_environment
from nsbox.client.agent import AGENT, acting_for
from nsbox.client.blocking.connections import Connections
from nsbox.client.blocking.driver import Driver, Transport
from nsbox.client.blocking.images import Images, Snapshots, Templates
from nsbox.client.blocking.method import Made, Method, Scope
from nsbox.client.blocking.sandbox import Sandbox
from nsbox.client.call import Call, T
from nsbox.client.retries import Retries
from nsbox.client.routes import accounts, sandboxes
from nsbox.client.types.account import Health
from nsbox.client.types.sandbox import SandboxInfo


class Keys(Scope):
    """Your API keys."""

    list = Method(accounts.keys)
    create = Method(accounts.create_key)
    revoke = Method(accounts.revoke_key)


class Users(Scope):
    """Users (for admins)."""

    list = Method(accounts.users)
    get = Method(accounts.user)
    create = Method(accounts.create_user)
    update = Method(accounts.update_user)
    remove = Method(accounts.remove_user)


def _sandbox(scope: Scope, info: SandboxInfo) -> Sandbox:
    return Sandbox(scope._driver, info.id, info)


def _sandboxes(scope: Scope, found: list[SandboxInfo]) -> list[Sandbox]:
    return [_sandbox(scope, info) for info in found]


class Client(Scope):
    """An nsbox. What is not given is in ``NSBOX_URL`` and ``NSBOX_API_KEY``.

    ``user``: act for this user (admins). ``ssl_context``: for https, instead of the host's certificates.
    ``connect_timeout`` in seconds. Proxies of the environment are not used.
    """

    create = Made(sandboxes.create, _sandbox)
    get = Made(sandboxes.find, _sandbox)
    list = Made(sandboxes.get_all, _sandboxes)
    me = Method(accounts.me)
    usage = Method(accounts.usage)
    usage_csv = Method(accounts.usage_csv)
    audit = Method(accounts.audit)
    metrics = Method(accounts.metrics)

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        user: str | None = None,
        retries: Retries = Retries(),  # noqa: B008 - it cannot be changed
        connect_timeout: float = 10.0,
        ssl_context: ssl.SSLContext | None = None,
        transport: Transport | None = None,
    ) -> None:
        where, secret = from_environment(url, key)
        if transport is None:
            transport = Connections(where, secret, AGENT, connect_timeout, ssl_context)
        super().__init__(Driver(transport, secret, retries, acting_for(user)), "")
        self.url = where.url
        self.images = Images(self._driver, "")
        self.templates = Templates(self._driver, "")
        self.snapshots = Snapshots(self._driver, "")
        self.keys = Keys(self._driver, "")
        self.users = Users(self._driver, "")

    def __repr__(self) -> str:
        return f"<Client {self.url}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections, also those that somebody waits on. Sandboxes go on."""
        self._driver.close()

    def sandbox(self, sandbox_id: str) -> Sandbox:
        """A sandbox by its id, without asking whether it is there."""
        return Sandbox(self._driver, sandbox_id)

    def raw(self, call: Call[T]) -> bytes:
        """The answer to a call of ``nsbox.client.routes`` as it came, with what is not known here."""
        return self._driver.do(call.raw)

    def health(self) -> Health:
        """Whether sandboxes can be made. Not tried again: that it is away is an answer, too."""
        answer = self._driver.ask(accounts.HEALTH)
        return accounts.read_health(answer.status, answer.body)
