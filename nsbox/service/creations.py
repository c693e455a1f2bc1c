"""A sandbox made whole, with what its template starts in it; and once only, however often it is asked for."""

from __future__ import annotations

import logging

import trio

from nsbox.model.errors import Code, Problem
from nsbox.model.request import Request
from nsbox.model.sandbox import Sandbox, SandboxSpec
from nsbox.service.commands import Commands
from nsbox.service.once import Once
from nsbox.service.registry import Registry
from nsbox.service.sandboxes import Sandboxes
from nsbox.service.tally import Tally

#: What is no fault of the client's.
_OURS = (Code.CREATE_FAILED, Code.HOST_LACKS, Code.HOST_FULL, Code.SANDBOX_UNRESPONSIVE, Code.SANDBOX_GONE)

_log = logging.getLogger(__name__)


class Creations:
    """Creates for clients. ``nursery`` is the daemon's."""

    def __init__(
        self,
        sandboxes: Sandboxes,
        commands: Commands,
        registry: Registry,
        nursery: trio.Nursery,
        tally: Tally | None = None,
    ) -> None:
        self._tally = tally or Tally()
        self._sandboxes, self._commands, self._registry = sandboxes, commands, registry
        self._once = Once[Sandbox](nursery)

    async def create(self, owner: str, spec: SandboxSpec) -> Sandbox:
        """A running sandbox. When it raises, nothing of it is left, and nothing either when the client
        leaves; unless it gave an Idempotency-Key: then it means to come back, and the same request gets the
        same sandbox, as it is by then. Raises ``Problem``."""
        request = spec.request
        if request is None:
            return await self._whole(owner, spec)

        async def earlier() -> tuple[Request, Sandbox] | None:
            return await self._earlier(owner, request.key)

        async def work() -> Sandbox:
            try:
                return await self._whole(owner, spec)
            except Problem:
                raise
            except Exception as error:
                _log.exception("a sandbox could not be made")
                detail = "the sandbox could not be made"
                raise Problem(Code.CREATE_FAILED, detail, remedy="see the log") from error

        return await self._once.do(owner, request, earlier, work)

    async def _earlier(self, owner: str, key: str) -> tuple[Request, Sandbox] | None:
        """What an earlier request with this key has made. One that failed, or never got as far as to be
        announced, does not count."""
        for record in await self._registry.requested(owner, key):
            if record.made and record.request is not None:
                return record.request, record
        return None

    async def _whole(self, owner: str, spec: SandboxSpec) -> Sandbox:
        result = "left"  # the client, before it was made
        try:
            with self._tally.create_seconds.timed():
                record = await self._made(owner, spec)
            result = "made"
        except Problem as problem:
            result = "failed" if problem.code in _OURS else "refused"
            raise
        except Exception:
            result = "failed"
            raise
        finally:
            self._tally.creates.add(result)
        return record

    async def _made(self, owner: str, spec: SandboxSpec) -> Sandbox:
        record = await self._sandboxes.create(owner, spec)
        try:
            await self._commands.begin(record)
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._forget_request(record)
                await self._sandboxes.kill(owner, record.id)
            raise
        return record

    async def _forget_request(self, record: Sandbox) -> None:
        """It is to be as if it had never been made."""
        live = self._registry.find(record.id)
        if live is not None:
            await self._registry.change(live, request=None)
