"""Layers on disk: made once each, shared by all who stand on them, removed when nobody does.

Who stands on a layer: images (their records), templates, sandboxes that live, sandboxes being made, pulls
that run. Nothing is counted on disk: who uses what is asked anew each time, so no count can be
wrong after a crash.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import trio

from nsbox.model.image import Stage
from nsbox.model.sandbox import new_command_id
from nsbox.model.snapshot import LAYER_PREFIX
from nsbox.oci.blobs import Blobs
from nsbox.oci.layers import Caps, LayerRefused, LayerReport, Reason, TaskRunner, unpack
from nsbox.oci.library import LayerInfo, Library
from nsbox.oci.sources import Part, Source

_log = logging.getLogger(__name__)

#: Folders that this module may remove: image layers and those of built templates and snapshots. Others have
#: other owners.
_OURS = ("i-", "t-", LAYER_PREFIX)
_REMOVED = ".removed"
_PARTIAL = ".partial"
_UNPACKING_AT_ONCE = 2
_BUSY_WAIT = 0.2
#: Refusals that say nothing of the image.
HOSTS_FAULT = frozenset({Reason.EXISTS, Reason.BUSY, Reason.NO_SPACE, Reason.HOST, Reason.INTERNAL})

Tell = Callable[[Stage, str, int, int], None]


class Layers:
    """All layers of images. ``used`` tells which ones somebody needs, besides those held here."""

    def __init__(
        self,
        library: Library,
        blobs: Blobs,
        keeper: TaskRunner,
        used: Callable[[], set[str]],
        *,
        downloads: int,
        caps: Caps,
    ) -> None:
        self._library, self._blobs, self._keeper, self._used = library, blobs, keeper, used
        self._caps = caps
        self._held: Counter[str] = Counter()
        self._locks: dict[str, tuple[trio.Lock, int]] = {}
        self._downloads = trio.Semaphore(downloads)
        self._unpacks = trio.Semaphore(_UNPACKING_AT_ONCE)
        self._fetching: Counter[str] = Counter()

    @contextmanager
    def held(self, names: Iterable[str]) -> Iterator[None]:
        """Nobody removes these meanwhile."""
        names = list(names)
        self._held.update(names)
        try:
            yield
        finally:
            self._held.subtract(names)
            self._held += Counter()  # drops the zeros

    @contextmanager
    def _lock(self, name: str) -> Iterator[trio.Lock]:
        lock, waiting = self._locks.get(name, (trio.Lock(), 0))
        self._locks[name] = lock, waiting + 1
        try:
            yield lock
        finally:
            lock, waiting = self._locks.pop(name)
            if waiting > 1:
                self._locks[name] = lock, waiting - 1

    async def install(self, part: Part, source: Source, tell: Tell) -> int:
        """Have a layer in place, from ``source`` unless it is here. Returns the bytes of its files.

        Two images that need one layer at the same time get it once. The caller holds it. Raises what the
        source raises, and ``LayerRefused``.
        """
        with self._lock(part.name) as lock:
            async with lock:
                if not self._library.has_layer(part.name):
                    await self._make(part, source, tell)
                    tell(Stage.DONE, part.digest, part.size, part.size)
                else:
                    tell(Stage.PRESENT, part.digest, part.size, part.size)
        info = await trio.to_thread.run_sync(self._library.layer_info, part.name)
        return info.bytes if info else 0

    async def _make(self, part: Part, source: Source, tell: Tell) -> None:
        tell(Stage.WAITING, part.digest, 0, part.size)
        self._fetching[part.digest] += 1
        try:
            async with self._downloads:
                if not await trio.to_thread.run_sync(self._blobs.has, part.digest, part.size):
                    await source.bring(
                        part, self._blobs, lambda have: tell(Stage.DOWNLOADING, part.digest, have, part.size)
                    )
            async with self._unpacks:
                tell(Stage.UNPACKING, part.digest, part.size, part.size)
                report = await self._unpack(part)
            if report.devices_skipped or report.xattrs_dropped:
                _log.info(
                    "the layer %s is without its %d devices and %d of its extended attributes",
                    part.diff_id,
                    report.devices_skipped,
                    report.xattrs_dropped,
                )
            info = LayerInfo(part.diff_id, report.bytes, report.entries)
            await trio.to_thread.run_sync(self._library.note_layer, part.name, info)
            await trio.to_thread.run_sync(self._blobs.remove, part.digest)
        finally:
            self._fetching[part.digest] -= 1

    async def _unpack(self, part: Part) -> LayerReport:
        while True:
            blob = await trio.to_thread.run_sync(self._blobs.open, part.digest)
            try:
                return await unpack(
                    self._keeper,
                    blob,
                    part.name,
                    compression=part.compression,
                    diff_id=part.diff_id,
                    caps=self._caps,
                )
            except LayerRefused as refused:
                if refused.reason is not Reason.BUSY:
                    if refused.reason not in HOSTS_FAULT:
                        # Its digest was right, so it will be as bad the next time: not to be found again.
                        await trio.to_thread.run_sync(self._blobs.remove, part.digest)
                    raise
            finally:
                os.close(blob)
            # The worker of an earlier api process, which has not noticed yet that nobody waits for it.
            await trio.sleep(_BUSY_WAIT)

    def needed(self) -> set[str]:
        """Every layer that somebody stands on at this moment."""
        return self._used() | set(self._held)

    def unneeded(self) -> dict[str, float]:
        """Layers of ours that nobody stands on, and since when they are there; halves of such too.

        What is left of a removal is nobody's, also where the layer has come back meanwhile.
        """
        needed = self.needed()
        return {
            name: since
            for name, since in self._library.layers().items()
            if name.startswith(_OURS) and name.removesuffix(_PARTIAL) not in needed
        }

    async def collect(self, older_than_s: float) -> tuple[list[str], int]:
        """Remove layers that nobody needs, and downloads that nobody has gone on with for so long. What was
        removed, and how many bytes that gave back."""
        horizon = time.time() - older_than_s
        freed = await trio.to_thread.run_sync(self._drop_blobs, horizon)
        old = [name for name, since in self.unneeded().items() if since <= horizon or name.endswith(_REMOVED)]
        removed, bytes_ = await self._drop(old)
        return removed, freed + bytes_

    def is_here(self, name: str) -> bool:
        """Whether it has its name: it is whole then."""
        return self._library.has_layer(name)

    def info(self, name: str) -> LayerInfo | None:
        """What was noted of it when it was on disk. Reads a file."""
        return self._library.layer_info(name)

    async def note(self, name: str, info: LayerInfo) -> None:
        """It is on disk, and was not unpacked here; unless it is gone again."""
        with self._lock(name) as lock:
            async with lock:
                if self._library.has_layer(name):
                    await trio.to_thread.run_sync(self._library.note_layer, name, info)

    async def drop_snapshots(self) -> list[str]:
        """Remove those of snapshots that nobody needs, at once: no pull would go on with them."""
        found = [name for name in self.unneeded() if name.startswith(LAYER_PREFIX)]
        return (await self._drop(found))[0]

    async def _drop(self, names: Iterable[str]) -> tuple[list[str], int]:
        removed, freed = [], 0
        for name in names:
            with self._lock(_whole(name)) as lock:
                async with lock:
                    if name not in self.unneeded():  # somebody came while we waited
                        continue
                    info = await trio.to_thread.run_sync(self._library.layer_info, name)
                    if not await self._remove(name):
                        continue
                    await trio.to_thread.run_sync(self._library.forget_layer, name)
                    removed.append(name)
                    freed += info.bytes if info else 0
        return removed, freed

    def _drop_blobs(self, horizon: float) -> int:
        freed = 0
        for digest, size, changed in list(self._blobs.entries()):
            if changed <= horizon and not self._fetching[digest]:
                self._blobs.remove(digest)
                freed += size
        return freed

    async def _remove(self, name: str) -> bool:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            status = await self._keeper.task(new_command_id(), "remove-layer", name, (null, null, 2))
        finally:
            os.close(null)
        if status:
            _log.warning("the layer %s could not be removed (status %d)", name, status)
        return status == 0


def _whole(name: str) -> str:
    """The layer that a half is the half of."""
    return name.removesuffix(_PARTIAL).removesuffix(_REMOVED)
