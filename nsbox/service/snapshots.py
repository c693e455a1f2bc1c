"""Snapshots: taken, listed, removed; sandboxes made from them; forks.

A snapshot is a row and a layer. The row comes first and is told when the layer has its name; what an api that
died has left between the two is removed at the next start. Who stands on a layer is asked anew each time, as
for images (docs/adr/0030): a snapshot that is removed while sandboxes stand on it leaves its layer to them.
"""

from __future__ import annotations

import logging
import os

import msgspec
import trio

from nsbox.host.storage import Reserve
from nsbox.model.errors import Code, Problem
from nsbox.model.image import MAX_LAYERS, ImageConfig
from nsbox.model.lifecycle import Action, after
from nsbox.model.request import Request
from nsbox.model.sandbox import Sandbox, SandboxSpec
from nsbox.model.snapshot import Purpose, Snapshot, new_layer, new_snapshot_id
from nsbox.oci.library import LayerInfo
from nsbox.service import clock
from nsbox.service.creations import Creations
from nsbox.service.cuts import Cuts
from nsbox.service.images import Images
from nsbox.service.once import Once
from nsbox.service.registry import Live, Registry
from nsbox.service.sandboxes import Sandboxes
from nsbox.service.templates import Templates
from nsbox.settings import Settings
from nsbox.store.snapshots import SnapshotStore

_log = logging.getLogger(__name__)


class Snapshots:
    """All of this host. ``nursery`` is the daemon's."""

    def __init__(
        self,
        store: SnapshotStore,
        registry: Registry,
        images: Images,
        templates: Templates,
        cuts: Cuts,
        sandboxes: Sandboxes,
        creations: Creations,
        settings: Settings,
        reserve: Reserve,
        nursery: trio.Nursery,
    ) -> None:
        self._sandboxes, self._creations = sandboxes, creations
        self._store, self._registry, self._images, self._templates = store, registry, images, templates
        self._cuts, self._settings, self._reserve, self._nursery = cuts, settings, reserve, nursery
        self._records: dict[str, Snapshot] = {}
        self._unfinished: list[Snapshot] = []
        self._sweeping = trio.Lock()
        self._boot_id = clock.boot_id()
        self._taking = Once[Snapshot](nursery)
        self._on_disk: set[str] = set()

    def stacks(self) -> list[tuple[str, ...]]:
        """The layers that nobody may remove; those below also without the snapshots' own."""
        found = [record.base.layers for record in self._records.values() if not record.sandboxes]
        return [*found, *(stack[1:] for stack in found)]

    # ---- look

    def get(self, owner: str, snapshot_id: str) -> Snapshot:
        """Raises ``Problem(SNAPSHOT_NOT_FOUND)``, also for another owner's."""
        record = self._records.get(snapshot_id)
        if record is None or record.owner != owner or not _is_whole(record):
            raise Problem(
                Code.SNAPSHOT_NOT_FOUND,
                f"there is no snapshot {snapshot_id[:64]!r}",
                remedy="list yours with GET /api/v1/snapshots",
            )
        return record

    def of_owner(self, owner: str) -> list[Snapshot]:
        """All of them, oldest first."""
        return [record for record in self._records.values() if record.owner == owner and _is_whole(record)]

    async def of_sandbox(self, owner: str, sandbox_id: str) -> list[Snapshot]:
        """Those of one sandbox, which may have ended."""
        await self._registry.record(owner, sandbox_id)
        return [record for record in self.of_owner(owner) if record.sandbox == sandbox_id]

    # ---- take and remove

    async def take(
        self, owner: str, sandbox_id: str, name: str, *, must_stand: bool, request: Request | None = None
    ) -> Snapshot:
        """Keep what a sandbox has written; once for a ``request``. When it raises, nothing is left."""

        async def earlier() -> tuple[Request, Snapshot] | None:
            return self._requested(owner, request)

        async def work() -> Snapshot:
            return await self._take(owner, sandbox_id, name, must_stand, request)

        return await (work() if request is None else self._taking.do(owner, request, earlier, work))

    def _requested(self, owner: str, request: Request | None) -> tuple[Request, Snapshot] | None:
        """What an earlier request with the same key has made, of what is kept of it."""
        for one in self._records.values():
            known = one.request if one.owner == owner and (_is_whole(one) or one.sandboxes) else None
            if known is not None and request is not None and known.key == request.key:
                return known, one
        return None

    async def _take(
        self, owner: str, sandbox_id: str, name: str, must_stand: bool, request: Request | None
    ) -> Snapshot:
        live = await self._found(owner, sandbox_id)
        mine = sum(one.owner == owner and one.purpose is Purpose.SNAPSHOT for one in self._records.values())
        if mine >= self._settings.max_snapshots:
            raise Problem(
                Code.TOO_MANY_SNAPSHOTS,
                f"you keep {mine} snapshots already",
                remedy="remove some, or have the operator raise max_snapshots",
            )
        record = self._begun(live, Purpose.SNAPSHOT, name, request)

        over = trio.Event()

        async def durable(well: bool) -> None:
            await over.wait()  # the disk may be quicker than the row
            if well:
                await self._settled(record.id)

        try:
            with self._images.hold(record.base.layers):
                self._records[record.id] = record
                await self._store.save(record)
                cut, how = await self._cuts.cut(live, record.layer, durable, must_stand=must_stand)
                made = msgspec.structs.replace(record, cut=cut, standstill=how)
                await self._store.save(made)
                self._records[record.id] = made
        except BaseException:
            await self._undo(record)
            raise
        finally:
            over.set()
        return made

    async def remove(self, owner: str, snapshot_id: str) -> Snapshot:
        """It is not to be had any more. Its layer goes when nobody stands on it."""
        record = self.get(owner, snapshot_id)
        # From memory first: from here on nobody is given it.
        del self._records[snapshot_id]
        self._on_disk.discard(snapshot_id)
        await self._store.forget(snapshot_id)
        self.sweep_soon()
        return record

    async def _found(self, owner: str, sandbox_id: str) -> Live:
        record = await self._registry.record(owner, sandbox_id)
        after(record.state, Action.SNAPSHOT)
        live = self._registry.find(sandbox_id)
        if live is None:
            raise Problem(Code.SANDBOX_GONE, "the sandbox is no longer there", remedy="create a new sandbox")
        return live

    def _begun(self, live: Live, purpose: Purpose, name: str, request: Request | None) -> Snapshot:
        """The record of what is about to be made, if it may be."""
        self._reserve.check()
        source, layer = live.record, new_layer()
        if len(source.layers) >= MAX_LAYERS:
            raise Problem(
                Code.TOO_MANY_LAYERS,
                f"the sandbox stands on {len(source.layers)} layers, and {MAX_LAYERS} is the most",
                remedy="export a snapshot as tar, import it as an image of one layer, and go on from that",
            )
        base = source.base or self._templates.get(source.template)
        return Snapshot(
            id=new_snapshot_id(),
            owner=source.owner,
            purpose=purpose,
            name=name,
            sandbox=source.id,
            layer=layer,
            base=msgspec.structs.replace(base, layers=(layer, *source.layers)),
            config=self._config(base.image),
            limits=source.limits,
            timeout_ms=source.timeout_ms,
            network=source.network,
            created_at=clock.wall(),
            boot_id=self._boot_id,
            request=request,
        )

    def _config(self, image: str) -> ImageConfig | None:
        try:
            return self._images.find(image).config if image else None
        except Problem:  # removed since the sandbox was made; what commands need is in its own record
            return None

    async def _undo(self, record: Snapshot) -> None:
        with trio.CancelScope(shield=True):
            self._records.pop(record.id, None)
            await self._store.forget(record.id)
            self.sweep_soon()

    async def _settled(self, snapshot_id: str) -> None:
        """Its layer is on disk. The row was written before that was waited for, on the same disk."""
        record = self._records.get(snapshot_id)
        if record is not None and record.cut is not None:
            info = LayerInfo("", bytes=record.cut.bytes, entries=record.cut.entries)
            await self._images.layers.note(record.layer, info)
            self._on_disk.add(snapshot_id)

    def is_durable(self, record: Snapshot) -> bool:
        """Whether a power cut would leave it."""
        return record.id in self._on_disk

    # ---- forks

    async def fork(
        self, owner: str, sandbox_id: str, count: int, spec: SandboxSpec, request: Request | None = None
    ) -> tuple[list[Sandbox], Snapshot]:
        """``count`` new sandboxes from one cut, all or none; once for a ``request``."""

        async def earlier() -> tuple[Request, Snapshot] | None:
            return self._requested(owner, request)

        async def work() -> Snapshot:
            return await self._fork(owner, sandbox_id, count, spec, request)

        done = await (work() if request is None else self._taking.do(owner, request, earlier, work))
        return [await self._registry.record(owner, one) for one in done.sandboxes], done

    async def _fork(
        self, owner: str, sandbox_id: str, count: int, spec: SandboxSpec, request: Request | None
    ) -> Snapshot:
        await self._prune()
        live = await self._found(owner, sandbox_id)
        await self._sandboxes.check(owner, spec, count)
        record = self._begun(live, Purpose.FORK, "", request)
        try:
            with self._images.hold(record.base.layers):
                self._records[record.id] = record
                await self._store.save(record)
                cut, standstill = await self._cuts.cut(live, record.layer)
                wish = msgspec.structs.replace(spec, base=record.base, origin=sandbox_id)
                made = await _all_or_none(owner, count, wish, self._sandboxes, self._creations)
                names = tuple(one.id for one in made)
                done = msgspec.structs.replace(record, cut=cut, standstill=standstill, sandboxes=names)
                try:
                    await self._finish(done)  # from here on they are there, whatever happens
                except BaseException:
                    await _end(owner, made, self._sandboxes)
                    raise
        except BaseException:
            await self._undo(record)
            raise
        self.sweep_soon()
        return done

    async def _finish(self, done: Snapshot) -> None:
        """A fork is whole. Its record goes; with a request it tells from now on what that has made, for as
        long as the sandboxes' own records would be kept."""
        if done.request is not None:
            await self._store.save(done)
            self._records[done.id] = done
        else:
            await self._store.forget(done.id)
            del self._records[done.id]

    async def _prune(self) -> None:
        """Forget forks that nobody asks for any more."""
        horizon = clock.wall() - self._settings.keep_records_s
        for one in list(self._records.values()):
            if one.sandboxes and one.created_at < horizon:
                self._records.pop(one.id, None)
                await self._store.forget(one.id)

    # ---- start and end

    async def load(self) -> None:
        """At the start, before anybody may remove a layer."""
        library = self._images.layers
        unsure: list[str] = []
        for record in await self._store.all():
            if record.sandboxes:
                self._records[record.id] = record
                continue
            noted = await trio.to_thread.run_sync(library.info, record.layer)
            known = noted is not None or record.boot_id == self._boot_id
            if _is_whole(record) and known and all(map(library.is_here, record.base.layers)):
                self._records[record.id] = record
                if noted is None:
                    unsure.append(record.id)
                else:
                    self._on_disk.add(record.id)
                continue
            if _is_whole(record):
                _log.warning("the snapshot %s is lost: its layers are not all here", record.id)
            self._unfinished.append(record)
        if unsure:
            self._nursery.start_soon(self._settle, unsure)

    async def _settle(self, snapshot_ids: list[str]) -> None:
        """Those whose worker was on its way to the disk when the api before us ended."""
        await trio.to_thread.run_sync(os.sync)
        for one in snapshot_ids:
            await self._settled(one)

    async def reconcile(self) -> None:
        """When the sandboxes are known: end those of forks that were not finished, remove what is left."""
        for record in self._unfinished:
            if record.purpose is Purpose.FORK:
                for live in self._registry.all():
                    if live.record.layers[:1] == (record.layer,):
                        await self._sandboxes.kill(live.record.owner, live.record.id)
            await self._store.forget(record.id)
        self._unfinished.clear()
        self._registry.on_end(lambda _: self.sweep_soon())
        self.sweep_soon()

    def sweep_soon(self) -> None:
        """Somebody has let go of a layer."""
        self._nursery.start_soon(self._sweep)

    async def _sweep(self) -> None:
        async with self._sweeping:
            try:
                await self._images.layers.drop_snapshots()
            except Exception:
                _log.exception("removing layers of snapshots failed")


def _is_whole(record: Snapshot) -> bool:
    return record.purpose is Purpose.SNAPSHOT and record.cut is not None


async def _all_or_none(
    owner: str, count: int, spec: SandboxSpec, sandboxes: Sandboxes, creations: Creations
) -> list[Sandbox]:
    """Raises the first ``Problem`` of any; none is left then."""
    made: list[Sandbox] = []
    failures: list[Exception] = []

    async def one() -> None:
        try:
            made.append(await creations.create(owner, spec))
        except Exception as error:
            failures.append(error)

    try:
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(one)
        if failures:
            raise failures[0]
    except BaseException:
        await _end(owner, made, sandboxes)
        raise
    return made


async def _end(owner: str, made: list[Sandbox], sandboxes: Sandboxes) -> None:
    with trio.CancelScope(shield=True):
        async with trio.open_nursery() as nursery:
            for one in made:
                nursery.start_soon(sandboxes.kill, owner, one.id)
