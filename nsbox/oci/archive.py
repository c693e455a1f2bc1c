"""Images in a tar archive: an OCI layout, or what ``docker save`` writes.

Only the archive's table is read with ``tarfile``, which never extracts anything here: members are found by
name, and their bytes are copied from where they lie. The archive is hostile: how much is read at once, how
many members there are and how long their names may be is bounded.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import tarfile
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import trio

from nsbox.model.image import MAX_LAYERS
from nsbox.oci import manifests
from nsbox.oci.blobs import Blobs, Mismatch
from nsbox.oci.digests import sha256
from nsbox.oci.layers import Compression
from nsbox.oci.manifests import MAX_DOCUMENT, BadImage, Descriptor, Index, Manifest, Platform
from nsbox.oci.reference import BadReference, parse
from nsbox.oci.sources import Found, Part, described

_MOST_MEMBERS = 20_000
_MOST_LINKS = 4
_CHUNK = 1 << 20
_REF_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_MAGIC = ((b"\x1f\x8b", Compression.GZIP), (b"\x28\xb5\x2f\xfd", Compression.ZSTD))


class _Place(NamedTuple):
    """Where a member's bytes are; ``link`` instead, where it is a symlink."""

    offset: int
    size: int
    link: str = ""


class _Bounded:
    """A file that ``tarfile`` may read, a little at a time: a header that claims gigabytes gets none."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._position = descriptor, 0

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_DOCUMENT:
            raise BadImage("the archive has a header of an absurd size")
        data = os.pread(self._descriptor, size, self._position)
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        assert whence == 0
        self._position = offset
        return offset

    def tell(self) -> int:
        return self._position


class _DockerImage(msgspec.Struct, frozen=True):
    """An entry of ``manifest.json``."""

    config: str = msgspec.field(name="Config")
    layers: tuple[str, ...] = msgspec.field(name="Layers")
    tags: tuple[str, ...] | None = msgspec.field(default=None, name="RepoTags")


class ArchiveSource:
    """One image of an archive. ``name`` is what it shall be called; empty: as the archive says."""

    def __init__(self, descriptor: int, name: str, platform: Platform, *, most_bytes: int) -> None:
        self._descriptor, self._name = descriptor, name
        self._platform, self._most_bytes = platform, most_bytes
        self._members: dict[str, _Place] = {}
        self._blobs: dict[str, _Place] = {}

    async def find(self) -> Found:
        """Raises ``BadImage``."""
        return await trio.to_thread.run_sync(self._find)

    async def bring(self, part: Part, blobs: Blobs, told: Callable[[int], None]) -> None:
        """Raises ``BadImage``."""
        place = self._blobs[part.digest]
        await trio.to_thread.run_sync(self._copy, place, part, blobs)
        told(part.size)

    # ---- in a thread

    def _find(self) -> Found:
        self._members = _table(self._descriptor)
        # What Docker has saved since 2024 is both; its layout is the half with digests.
        if "index.json" in self._members:
            return self._find_layout()
        if "manifest.json" in self._members:
            return self._find_docker()
        raise BadImage("the archive has neither an index.json (OCI layout) nor a manifest.json (docker save)")

    def _find_layout(self) -> Found:
        data = self._document("index.json")
        read = manifests.read_document(data)
        if not isinstance(read, Index):
            raise BadImage("the archive's index.json is no list of images")
        top = self._select(read)
        digest, name = top.digest, self._name or _name_of(top)
        index = ""
        for _ in range(3):
            data = self._document(_blob_path(digest))
            if sha256(data) != digest:
                raise BadImage(f"the archive has something else as {digest}")
            read = manifests.read_document(data)
            if isinstance(read, Manifest):
                break
            index, digest = index or digest, manifests.choose(read, self._platform).digest
        else:
            raise BadImage("the image is a list of lists of lists")
        manifests.check_manifest(read, most_bytes=self._most_bytes)
        config = self._document(_blob_path(read.config.digest))
        if sha256(config) != read.config.digest:
            raise BadImage(f"the archive has something else as {read.config.digest}")
        for layer in read.layers:
            place = self._place(_blob_path(layer.digest))
            if place.size != layer.size:
                raise BadImage(f"{layer.digest} has {place.size} bytes, and its manifest says {layer.size}")
            self._blobs[layer.digest] = place
        return described(_canonical(name), digest, index, read, config, self._platform, "archive")

    def _select(self, index: Index) -> Descriptor:
        """The one image, or the one for this platform, or the one of the name that was asked for."""
        images = index.manifests
        if len(images) > 1 and self._name:
            same = [one for one in images if _same(_name_of(one), self._name)]
            images = tuple(same) or images
        if len(images) == 1:
            return images[0]
        if any(one.platform is not None for one in images):
            return manifests.choose(Index(images), self._platform)
        names = ", ".join(_name_of(one) or one.digest for one in images[:20])
        raise BadImage(f"the archive has {len(images)} images: {names}; name one of them")

    def _find_docker(self) -> Found:
        images = _decoded(self._document("manifest.json"), tuple[_DockerImage, ...])
        named = [one for one in images if any(_same(tag, self._name) for tag in one.tags or ())]
        chosen = named or list(images)
        if len(chosen) != 1:
            names = ", ".join(tag for one in images for tag in one.tags or ())[:300] or "without names"
            raise BadImage(f"the archive has {len(images)} images: {names}; name one of them")
        image = chosen[0]
        name = self._name or next(iter(image.tags or ()), "")
        config = self._document(image.config)
        if len(image.layers) > MAX_LAYERS:
            raise BadImage(f"the image has {len(image.layers)} layers; {MAX_LAYERS} is the most")
        read, diff_ids = manifests.read_config(config, len(image.layers), self._platform)
        if not diff_ids:
            raise BadImage("the image has no layers, so there is nothing in it that could run")
        parts = []
        for path, diff_id in zip(image.layers, diff_ids, strict=True):
            place = self._place(path)
            digest = _digest_of(self._descriptor, place)
            self._blobs[digest] = place
            packed = _sniffed(self._descriptor, place)
            parts.append(Part(digest=digest, size=place.size, diff_id=diff_id, compression=packed))
        if sum(part.size for part in parts) > self._most_bytes:
            raise BadImage(f"the image has more than {self._most_bytes} bytes (max_image_bytes)")
        return Found(
            reference=_canonical(name),
            digest=sha256(config),
            index="",
            config=read,
            parts=tuple(parts),
            source="archive",
        )

    def _place(self, path: str) -> _Place:
        path = posixpath.normpath(path)
        for _ in range(_MOST_LINKS):
            place = self._members.get(path)
            if place is None:
                raise BadImage(f"the archive lacks {path[:200]!r}, which it names")
            if not place.link:
                return place
            path = posixpath.normpath(posixpath.join(posixpath.dirname(path), place.link))
        raise BadImage("the archive has links that lead nowhere")

    def _document(self, path: str) -> bytes:
        place = self._place(path)
        if place.size > MAX_DOCUMENT:
            raise BadImage(f"the archive's {path[:200]} has {place.size} bytes; {MAX_DOCUMENT} is the most")
        return os.pread(self._descriptor, place.size, place.offset)

    def _copy(self, place: _Place, part: Part, blobs: Blobs) -> None:
        incoming = blobs.begin(part.digest, part.size)
        try:
            incoming.restart()
            while incoming.have < place.size:
                wanted = min(_CHUNK, place.size - incoming.have)
                block = os.pread(self._descriptor, wanted, place.offset + incoming.have)
                if not block:
                    break
                incoming.write(block)
            incoming.finish()
        except Mismatch as error:
            raise BadImage(f"the archive is damaged: {error}") from error
        finally:
            incoming.close()


def _table(descriptor: int) -> dict[str, _Place]:
    """Where everything is. Raises ``BadImage``."""
    members: dict[str, _Place] = {}
    whole = os.fstat(descriptor).st_size
    if os.pread(descriptor, 4, 0).startswith(tuple(magic for magic, _ in _MAGIC)):
        raise BadImage("the archive is compressed; uncompress it first (gunzip, unzstd)")
    try:
        with tarfile.open(fileobj=_Bounded(descriptor), mode="r:") as archive:  # type: ignore[call-overload]
            for count, member in enumerate(archive):
                if count >= _MOST_MEMBERS:
                    raise BadImage(f"the archive has more than {_MOST_MEMBERS} members")
                name = posixpath.normpath(member.name)
                if member.isdir():
                    continue
                place = _Place(member.offset_data, member.size, member.linkname if member.issym() else "")
                if not (member.isfile() or member.issym()) or member.issparse():
                    raise BadImage(f"the archive's {name[:200]!r} is neither a file nor a link")
                if place.offset + place.size > whole:
                    raise BadImage("the archive is cut short")
                # Two members of one name could be read as two images by two tools.
                if members.setdefault(name, place) != place:
                    raise BadImage(f"the archive has {name[:200]!r} twice")
    except (tarfile.TarError, ValueError, OverflowError, UnicodeError, RecursionError) as error:
        raise BadImage(f"this is no tar archive that can be read: {error}"[:200]) from error
    if not members:
        raise BadImage("this is no tar archive, or an empty one")
    return members


def _blob_path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/', 1)}"


def _name_of(image: Descriptor) -> str:
    notes = image.annotations or {}
    return next((notes[key] for key in _REF_NAMES if notes.get(key)), "")


def _same(one: str, other: str) -> bool:
    try:
        return bool(one) and (one == other or parse(one) == parse(other))
    except BadReference:
        return False


def _canonical(name: str) -> str:
    if not name:
        raise BadImage("the archive does not say what its image is called; give a name")
    try:
        return str(parse(name))
    except BadReference as error:
        raise BadImage(f"{name[:200]!r} cannot be an image's name: {error}; give another name") from error


def _digest_of(descriptor: int, place: _Place) -> str:
    hashing, at, end = hashlib.sha256(), place.offset, place.offset + place.size
    while at < end and (block := os.pread(descriptor, min(_CHUNK, end - at), at)):
        hashing.update(block)
        at += len(block)
    return f"sha256:{hashing.hexdigest()}"


def _sniffed(descriptor: int, place: _Place) -> Compression:
    head = os.pread(descriptor, min(4, place.size), place.offset)
    return next((kind for magic, kind in _MAGIC if head.startswith(magic)), Compression.NONE)


def _decoded(data: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadImage(f"the archive's manifest.json is not what it should be: {error}"[:300]) from error
