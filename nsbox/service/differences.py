"""What sandboxes and snapshots have changed of what they were made from."""

from __future__ import annotations

import base64
import binascii

import trio

from nsbox.host.keeper import KeeperLink
from nsbox.model.errors import Code, Problem
from nsbox.model.lifecycle import Action, after
from nsbox.model.snapshot import Snapshot
from nsbox.oci.snapshots.orders import Changes, DiffOrder, TaskRefused, diff
from nsbox.service.cuts import check_storage, problem_of
from nsbox.service.images import Images
from nsbox.service.registry import Registry

#: Each is a process that reads the disk.
_AT_ONCE = 4
_SECONDS = 30.0


class Differences:
    """Pages of changes, read from the disk each time."""

    def __init__(self, registry: Registry, images: Images, keeper: KeeperLink) -> None:
        self._registry, self._images, self._keeper = registry, images, keeper
        self._turns = trio.Semaphore(_AT_ONCE)

    async def of_sandbox(self, owner: str, sandbox_id: str, behind: str, limit: int) -> Changes:
        """Those of a sandbox that lives, which may go on meanwhile. Raises ``Problem``."""
        record = await self._registry.record(owner, sandbox_id)
        after(record.state, Action.DIFF)
        check_storage(record)
        order = DiffOrder(
            sandbox=sandbox_id, lower=record.layers, after=behind, limit=limit, seconds=_SECONDS
        )
        return await self._asked(order, record.layers)

    async def of_snapshot(self, record: Snapshot, behind: str, limit: int) -> Changes:
        """Those that its sandbox had made until then. Raises ``Problem``."""
        layers = record.base.layers
        order = DiffOrder(upper=layers[0], lower=layers[1:], after=behind, limit=limit, seconds=_SECONDS)
        return await self._asked(order, layers)

    async def _asked(self, order: DiffOrder, layers: tuple[str, ...]) -> Changes:
        try:
            base64.b64decode(order.after, b"-_", validate=True)
        except binascii.Error as error:
            detail = "after is what the answer before had as next"
            raise Problem(Code.INVALID_FIELD, detail, field="after") from error
        with self._images.hold(layers):
            async with self._turns:
                try:
                    return await diff(self._keeper, layers[0], order)
                except TaskRefused as refused:
                    raise problem_of(refused) from refused
