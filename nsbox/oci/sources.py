"""Where an image comes from: what it is made of, and each of its layers as a blob on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from nsbox.model.image import ImageConfig
from nsbox.oci import manifests
from nsbox.oci.blobs import Blobs
from nsbox.oci.digests import layer_name, sha256
from nsbox.oci.fetch import fetch
from nsbox.oci.layers import Compression
from nsbox.oci.manifests import BadImage, Index, Manifest, Platform
from nsbox.oci.reference import Reference
from nsbox.oci.registry import Document, Registry
from nsbox.oci.registry_errors import NotThere, Patience, RegistryError, Unfit
from nsbox.oci.session import Endpoint

_MOST_NESTED = 2


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A layer to be had: the blob, how it is packed, and what its contents must hash to."""

    digest: str
    size: int
    diff_id: str
    compression: Compression

    @property
    def name(self) -> str:
        """Its folder in ``layers/``."""
        return layer_name(self.diff_id)


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """An image as its source describes it. ``reference`` is canonical; ``parts`` are bottom first."""

    reference: str
    digest: str
    index: str
    config: ImageConfig
    parts: tuple[Part, ...]
    source: str


class Source(Protocol):
    """A registry with its mirrors, or an archive."""

    async def find(self) -> Found:
        """What the image is made of. Raises ``BadImage``, ``RegistryError``."""
        ...

    async def bring(self, part: Part, blobs: Blobs, told: Callable[[int], None]) -> None:
        """When it returns, the blob is in ``blobs``, verified. Raises ``BadImage``, ``RegistryError``."""
        ...


class RegistrySource:
    """The first of ``endpoints`` that has the image; the others, should it fail for a blob."""

    def __init__(
        self,
        reference: Reference,
        endpoints: Sequence[tuple[Endpoint, str]],
        platform: Platform,
        *,
        most_bytes: int,
        patience: Patience | None = None,
    ) -> None:
        self._reference, self._platform, self._most_bytes = reference, platform, most_bytes
        self._endpoints, self._patience = list(endpoints), patience or Patience()
        self._registries: list[Registry] = []

    async def __aenter__(self) -> RegistrySource:
        for endpoint, repository in self._endpoints:
            self._registries.append(Registry(endpoint, repository, self._patience))
        return self

    async def __aexit__(self, *error: object) -> None:
        for registry in self._registries:
            await registry.__aexit__(*error)

    async def find(self) -> Found:
        """From a mirror, if one has it. A mirror that gives nonsense is passed over like one that is down."""
        failures: list[Exception] = []
        for number, registry in enumerate(list(self._registries)):
            try:
                found = await self._find(registry)
            except (RegistryError, BadImage) as error:
                failures.append(error)
                continue
            self._registries.insert(0, self._registries.pop(number))
            return found
        raise failures[-1]  # the registry's own word counts, and it is asked last

    async def _find(self, registry: Registry) -> Found:
        document = await registry.manifest(self._reference.wanted)
        digest = _verified(document, self._reference.digest, None)
        read = manifests.read_document(document.data, document.media_type)
        index = ""
        nested = 0
        while isinstance(read, Index):
            nested += 1
            if nested > _MOST_NESTED:
                raise BadImage("the image is a list of lists of lists")
            chosen = manifests.choose(read, self._platform)
            document = await registry.manifest(chosen.digest)
            index, digest = index or digest, _verified(document, chosen.digest, chosen.size)
            read = manifests.read_document(document.data, document.media_type)
        manifests.check_manifest(read, most_bytes=self._most_bytes)
        config = await registry.document(read.config.digest)
        _verified(msgspec.structs.replace(config, digest=""), read.config.digest, read.config.size)
        return described(
            str(self._reference), digest, index, read, config.data, self._platform, registry.endpoint.host
        )

    async def bring(self, part: Part, blobs: Blobs, told: Callable[[int], None]) -> None:
        failure: RegistryError = NotThere("there is no registry to ask")
        for registry in self._registries:
            try:
                await fetch(registry, blobs, part.digest, part.size, told)
            except RegistryError as error:
                failure = error
            else:
                return
        raise failure


def _verified(document: Document, digest: str, size: int | None) -> str:
    """The digest of what came, seen to be what was asked for. Raises ``Unfit``."""
    actual = sha256(document.data)
    if size is not None and len(document.data) != size:
        raise Unfit(f"the registry sent {len(document.data)} bytes for {digest}, which has {size}")
    if digest and actual != digest:
        raise Unfit(f"the registry sent something else than {digest}")
    if document.digest and document.digest != actual:
        raise Unfit("the registry sent something else than the digest that it gave along")
    return actual


def described(
    reference: str,
    digest: str,
    index: str,
    manifest: Manifest,
    config: bytes,
    platform: Platform,
    source: str,
) -> Found:
    """Manifest and config, checked against each other. Raises ``BadImage``."""
    read, diff_ids = manifests.read_config(config, len(manifest.layers), platform)
    parts = tuple(
        Part(digest=layer.digest, size=layer.size, diff_id=diff_id, compression=manifests.compression(layer))
        for layer, diff_id in zip(manifest.layers, diff_ids, strict=True)
    )
    return Found(reference=reference, digest=digest, index=index, config=read, parts=parts, source=source)
