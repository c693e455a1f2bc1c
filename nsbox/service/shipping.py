"""One push: what the registry has is named, what it lacks is packed and sent, the manifest comes last.

Blobs of layers are not kept (ADR 0030). Where an image that is here was made from a blob, the registry may
have that very one, in this repository or in another: then nothing is packed, and nothing is sent.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import msgspec
import trio

from nsbox.host.keeper import KeeperLink
from nsbox.model.image import Pushed, PushedLayer, Stage
from nsbox.oci.digests import sha256
from nsbox.oci.manifests import OCI_LAYER, OCI_MANIFEST
from nsbox.oci.pushing import Target
from nsbox.oci.reference import Reference
from nsbox.oci.registry_errors import RegistryError, persistently
from nsbox.oci.snapshots.orders import ExportOrder, Form, Packed, TaskRefused, export, sizes
from nsbox.service.layers import Tell

_CONFIG = "application/vnd.oci.image.config.v1+json"
_MOST_KNOWN = 20_000
#: How media types end (image-spec, layer.md).
_ENDINGS = {"none": "", "gzip": "+gzip", "zstd": "+zstd"}


class Original(msgspec.Struct, frozen=True, kw_only=True):
    """A blob that a layer here was unpacked from, and the repository that it came from."""

    registry: str
    repository: str
    blob: Packed
    packing: str

    @property
    def media_type(self) -> str:
        return OCI_LAYER + _ENDINGS[self.packing]


class Cargo(msgspec.Struct, frozen=True, kw_only=True):
    """What is pushed. ``layers`` are topmost first; ``config`` is the image's without them; ``originals`` by
    the names of layers."""

    layers: tuple[str, ...]
    config: dict[str, Any]
    originals: dict[str, tuple[Original, ...]]


class _Settled(msgspec.Struct, frozen=True, kw_only=True):
    """A layer that the registry has."""

    blob: Packed
    media_type: str
    how: Stage


class Known:
    """Where blobs were last seen, by registry: from there they can be mounted. Forgotten with the process."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[str, str], str] = OrderedDict()

    def note(self, registry: str, digest: str, repository: str) -> None:
        """It is there."""
        self._seen[registry, digest] = repository
        self._seen.move_to_end((registry, digest))
        if len(self._seen) > _MOST_KNOWN:
            self._seen.popitem(last=False)

    def where(self, registry: str, digest: str) -> str | None:
        """A repository that had it."""
        return self._seen.get((registry, digest))


class Shipment:
    """The parts of a push that all work on the same. ``turns``: how many layers may be sent at once, of all
    pushes."""

    def __init__(
        self,
        target: Target,
        to: Reference,
        keeper: KeeperLink,
        known: Known,
        turns: trio.Semaphore,
        tell: Tell,
        seconds: float,
    ) -> None:
        self._target, self._to, self._keeper = target, to, keeper
        self._known, self._turns, self._tell, self._seconds = known, turns, tell, seconds

    async def push(self, cargo: Cargo) -> Pushed:
        """When this returns, the registry has the image. Raises ``RegistryError``, ``TaskRefused``."""
        self._tell(Stage.RESOLVING, "", 0, 0)
        settled = await self._all(cargo.layers, lambda name: self._original(cargo.originals.get(name, ())))
        rest = tuple(name for name in cargo.layers if settled[name] is None)
        if rest:
            self._tell(Stage.PACKING, "", 0, 0)
            packed = await sizes(self._keeper, rest, self._seconds)
            settled |= await self._all(rest, lambda name: self._packed(name, packed[name]))
        layers = [one for name in reversed(cargo.layers) if (one := settled[name]) is not None]
        digest = await self._describe(cargo.config, layers)
        self._tell(Stage.DONE, "", 0, 0)
        told = tuple(PushedLayer(digest=one.blob.digest, size=one.blob.size, how=one.how) for one in layers)
        return Pushed(reference=str(self._to), digest=digest, layers=told)

    async def _all(
        self, names: tuple[str, ...], work: Callable[[str], Awaitable[_Settled | None]]
    ) -> dict[str, _Settled | None]:
        """Layers at once, as far as there are turns. Raises the first error of any."""
        done: dict[str, _Settled | None] = {}
        failures: list[Exception] = []

        async def one(name: str) -> None:
            try:
                async with self._turns:
                    done[name] = await work(name)
            except Exception as error:
                failures.append(error)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(one, name)
        if failures:
            raise failures[0]
        return done

    async def _original(self, originals: tuple[Original, ...]) -> _Settled | None:
        for one in originals:
            other = one.repository if one.registry == self._to.registry else None
            how = await self._found(one.blob, other)
            if how is not None:
                return _Settled(blob=one.blob, media_type=one.media_type, how=how)
        return None

    async def _found(self, blob: Packed, other: str | None) -> Stage | None:
        """Whether the repository has a blob, or can have it from an ``other`` one."""
        how = None
        if await self._target.has(blob.digest, blob.size):
            how = Stage.PRESENT
        elif other not in (None, self._to.repository) and await self._target.mount(blob.digest, str(other)):
            how = Stage.MOUNTED
        if how is not None:
            self._had(blob, how)
        return how

    def _had(self, blob: Packed, how: Stage) -> None:
        self._known.note(self._to.registry, blob.digest, self._to.repository)
        self._tell(how, blob.digest, blob.size, blob.size)

    async def _packed(self, name: str, blob: Packed) -> _Settled:
        how = await self._found(blob, self._known.where(self._to.registry, blob.digest))
        if how is None:
            await persistently(self._target.patience, lambda: self._send_layer(name, blob))
            how = Stage.DONE
            self._had(blob, how)
        return _Settled(blob=blob, media_type=f"{OCI_LAYER}+gzip", how=how)

    async def _send_layer(self, name: str, blob: Packed) -> None:
        """One try. It is packed while it is sent."""
        failure: Exception | None = None
        order = ExportOrder(form=Form.LAYER, layers=(name,), seconds=self._seconds)
        async with export(self._keeper, order) as pieces, aclosing(pieces):
            try:
                await self._send(blob, pieces)
            except (RegistryError, TaskRefused) as error:  # out of the nursery of ``export`` as it is
                failure = error
        if failure is not None:
            raise failure

    async def _send(self, blob: Packed, pieces: AsyncGenerator[bytes, None]) -> None:
        def told(sent: int) -> None:
            self._tell(Stage.UPLOADING, blob.digest, sent, blob.size)

        told(0)
        await self._target.send(blob.digest, blob.size, pieces, told)

    async def _describe(self, config: dict[str, Any], layers: list[_Settled]) -> str:
        """Send config and manifest; the image's digest."""
        rootfs = {"type": "layers", "diff_ids": [one.blob.diff_id for one in layers]}
        document = _json({**config, "rootfs": rootfs})
        digest = sha256(document)
        manifest = _json(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": _descriptor(_CONFIG, digest, len(document)),
                "layers": [_descriptor(one.media_type, one.blob.digest, one.blob.size) for one in layers],
            }
        )
        if not await self._target.has(digest, len(document)):
            await persistently(self._target.patience, lambda: self._send_document(digest, document))
        name = sha256(manifest)
        await self._target.tag(self._to.tag, manifest, OCI_MANIFEST, name)
        return name

    async def _send_document(self, digest: str, document: bytes) -> None:
        async with aclosing(_once(document)) as pieces:
            await self._target.send(digest, len(document), pieces, lambda _: None)


async def _once(data: bytes) -> AsyncGenerator[bytes, None]:
    yield data


def _json(value: object) -> bytes:
    return msgspec.json.encode(value)


def _descriptor(kind: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": kind, "digest": digest, "size": size}
