"""The JSON documents of images: lists for platforms, manifests, configs. Pure; every document is hostile.

A document must be of one kind and say so in one voice: where its own ``mediaType`` and the kind that the
registry announced differ, or where it has the members of both kinds, it is refused (CVE-2021-41190: one
digest that two tools read as two different images).
"""

from __future__ import annotations

import platform
import posixpath
from typing import Any

import msgspec

from nsbox.model.image import MAX_LAYERS, ImageConfig
from nsbox.oci.layers import Compression
from nsbox.oci.reference import DIGEST

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})
_MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
#: What a registry is asked for.
ACCEPT = ", ".join((OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST))
_CONFIGS = frozenset(
    {"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"}
)

OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
_OCI_FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar"
_DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
_DOCKER_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar"
_COMPRESSIONS = {
    OCI_LAYER: Compression.NONE,
    f"{OCI_LAYER}+gzip": Compression.GZIP,
    f"{OCI_LAYER}+zstd": Compression.ZSTD,
    _OCI_FOREIGN: Compression.NONE,
    f"{_OCI_FOREIGN}+gzip": Compression.GZIP,
    f"{_OCI_FOREIGN}+zstd": Compression.ZSTD,
    _DOCKER_LAYER: Compression.NONE,
    f"{_DOCKER_LAYER}.gzip": Compression.GZIP,
    f"{_DOCKER_LAYER}.zstd": Compression.ZSTD,
    f"{_DOCKER_FOREIGN}.gzip": Compression.GZIP,
}

#: The distribution specification's own bound for manifests; configs are of the same order.
MAX_DOCUMENT = 4 << 20
_MAX_SIZE = 1 << 50
#: As much as a client may give with a sandbox; both go into one message to init.
_MAX_ENV = 64 << 10
_MAX_TEXT = 4096
_MAX_WORDS = 1024
_MAX_LABELS = 256


class BadImage(Exception):
    """The image cannot be used. The sentence says why, in words for whoever asked for it."""


class Platform(msgspec.Struct, frozen=True):
    """An operating system and a processor, as images name them."""

    os: str = ""
    architecture: str = ""
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    """Points at a blob."""

    digest: str
    size: int
    media_type: str = ""
    platform: Platform | None = None
    annotations: dict[str, str] | None = None


class Index(msgspec.Struct, frozen=True, rename="camel"):
    """A list of manifests."""

    manifests: tuple[Descriptor, ...]


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """One image of one platform. Layers are bottom first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


class _Head(msgspec.Struct, frozen=True, rename="camel"):
    """What a document says it is."""

    schema_version: int = 0
    media_type: str = ""


class _Inner(msgspec.Struct, frozen=True):
    """``config`` within a config. Builders write null for what is not there."""

    env: tuple[str, ...] | None = msgspec.field(default=None, name="Env")
    workdir: str | None = msgspec.field(default=None, name="WorkingDir")
    user: str | None = msgspec.field(default=None, name="User")
    entrypoint: tuple[str, ...] | None = msgspec.field(default=None, name="Entrypoint")
    cmd: tuple[str, ...] | None = msgspec.field(default=None, name="Cmd")
    labels: dict[str, str] | None = msgspec.field(default=None, name="Labels")


class _Rootfs(msgspec.Struct, frozen=True):
    diff_ids: tuple[str, ...] | None = None


class _Config(msgspec.Struct, frozen=True):
    os: str = ""
    architecture: str = ""
    variant: str | None = None
    created: str | None = None
    config: _Inner | None = None
    rootfs: _Rootfs | None = None


def host_platform(machine: str = "") -> Platform:
    """This host's, as images name it. ``machine`` is uname's word for it."""
    machine = machine or platform.machine()
    names = {"x86_64": "amd64", "aarch64": "arm64", "riscv64": "riscv64", "ppc64le": "ppc64le"}
    return Platform("linux", names.get(machine, machine))


def read_document(data: bytes, announced: str = "") -> Index | Manifest:
    """A list or a manifest. ``announced`` is the kind that was said from outside, empty where nobody said.

    Raises ``BadImage``.
    """
    announced = announced.partition(";")[0].strip().lower()
    if announced and announced not in _INDEXES | _MANIFESTS:
        raise BadImage(f"a manifest was asked for, and the answer is of the type {announced[:100]!r}")
    members: dict[str, msgspec.Raw] = _decode(data, dict[str, msgspec.Raw], "the manifest")
    there = {name for name, value in members.items() if bytes(value) != b"null"}
    head: _Head = _decode(data, _Head, "the manifest")
    if "fsLayers" in there or head.schema_version == 1:
        raise BadImage("the image is in Docker's schema 1 of 2014, which is not supported; push it again")
    if announced and head.media_type and announced != head.media_type:
        raise BadImage(f"the manifest says it is {head.media_type[:100]!r} and was sent as {announced!r}")
    kind = announced or head.media_type
    is_list = "manifests" in there
    is_manifest = "layers" in there or "config" in there
    if is_list and is_manifest:
        raise BadImage(
            "the manifest has the members of a list and those of an image: it could be read as two"
        )
    if kind and kind not in _INDEXES | _MANIFESTS:
        raise BadImage(f"the manifest is of the type {kind[:100]!r}, which is no image")
    if kind and is_list is not (kind in _INDEXES):
        raise BadImage(f"the manifest was sent as {kind!r} and has not the members of one")
    if is_list:
        return _decode_checked(data, Index)
    return _decode_checked(data, Manifest)


def _decode_checked(data: bytes, kind: type[Index] | type[Manifest]) -> Index | Manifest:
    found: Index | Manifest = _decode(data, kind, "the manifest")
    parts = found.manifests if isinstance(found, Index) else (found.config, *found.layers)
    for part in parts:
        _check(part)
    return found


def _check(part: Descriptor) -> None:
    if not DIGEST.fullmatch(part.digest):
        raise BadImage(f"the manifest names a blob by {part.digest[:100]!r}; only sha256 digests are known")
    if not 0 <= part.size <= _MAX_SIZE:
        raise BadImage(f"the manifest gives {part.digest} a size of {part.size} bytes")


def choose(index: Index, wanted: Platform) -> Descriptor:
    """The manifest for this platform. Raises ``BadImage``, which names those there are."""
    candidates = [one for one in index.manifests if _fits(one, wanted)]
    if candidates:
        # Without a variant first: amd64/v3 may not run here, and arm64 is arm64/v8.
        return min(candidates, key=lambda one: (one.platform.variant if one.platform else "") or "")
    unnamed = [one for one in index.manifests if one.platform is None]
    if len(unnamed) == 1 and len(index.manifests) == 1:
        return unnamed[0]
    there = sorted(
        {str(one.platform) for one in index.manifests if one.platform and one.platform.os != "unknown"}
    )
    raise BadImage(
        f"the image is not made for {wanted}; it is for: {', '.join(there)[:300] or 'nothing named'}"
    )


def _fits(one: Descriptor, wanted: Platform) -> bool:
    found = one.platform
    if found is None or (found.os, found.architecture) != (wanted.os, wanted.architecture):
        return False
    if wanted.variant:
        return found.variant in ("", wanted.variant)
    return found.variant in ("", "v1", "v8")


def compression(layer: Descriptor) -> Compression:
    """How a layer is packed, by what its manifest says. Raises ``BadImage`` for what is no layer."""
    found = _COMPRESSIONS.get(layer.media_type.lower())
    if found is None:
        raise BadImage(f"a layer is of the type {layer.media_type[:100]!r}, which is not supported")
    return found


def check_manifest(manifest: Manifest, *, most_bytes: int) -> None:
    """Bounds, before anything of it is fetched. Raises ``BadImage``."""
    if manifest.config.media_type.lower() not in _CONFIGS:
        raise BadImage(
            f"its config is of the type {manifest.config.media_type[:100]!r}: an artifact that is no image"
        )
    if not manifest.layers:
        raise BadImage("the image has no layers, so there is nothing in it that could run")
    if len(manifest.layers) > MAX_LAYERS:
        raise BadImage(f"the image has {len(manifest.layers)} layers; {MAX_LAYERS} is the most")
    if manifest.config.size > MAX_DOCUMENT:
        raise BadImage(f"the image's config has {manifest.config.size} bytes; {MAX_DOCUMENT} is the most")
    for layer in manifest.layers:
        compression(layer)
    total = sum(layer.size for layer in manifest.layers)
    if total > most_bytes:
        raise BadImage(f"the image has {total} bytes to download; {most_bytes} is the most (max_image_bytes)")


def read_config(data: bytes, layers: int, wanted: Platform) -> tuple[ImageConfig, tuple[str, ...]]:
    """The config, and the digests of the plain layers. Raises ``BadImage``."""
    found: _Config = _decode(data, _Config, "the config")
    if (found.os or "linux", found.architecture or wanted.architecture) != (wanted.os, wanted.architecture):
        raise BadImage(f"the image is for {found.os}/{found.architecture}, and this host is {wanted}")
    diff_ids = (found.rootfs and found.rootfs.diff_ids) or ()
    if len(diff_ids) != layers:
        raise BadImage(f"the config names {len(diff_ids)} layers and the manifest {layers}")
    for diff_id in diff_ids:
        if not DIGEST.fullmatch(diff_id):
            raise BadImage(f"the config names a layer by {diff_id[:100]!r}; only sha256 digests are known")
    inner = found.config or _Inner()
    labels = {
        name[:_MAX_TEXT]: text[:_MAX_TEXT] for name, text in list((inner.labels or {}).items())[:_MAX_LABELS]
    }
    return (
        ImageConfig(
            env=_env(inner.env or ()),
            workdir=_workdir(inner.workdir or "/"),
            user=_text(inner.user or "", "User"),
            entrypoint=_words(inner.entrypoint or (), "Entrypoint"),
            cmd=_words(inner.cmd or (), "Cmd"),
            labels=labels,
            created=(found.created or "")[:64],
            os=found.os,
            architecture=found.architecture,
            variant=found.variant or "",
        ),
        diff_ids,
    )


def _env(pairs: tuple[str, ...]) -> dict[str, str]:
    env: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name or "\0" in pair:
            raise BadImage("the config has an environment variable without a name, or with a NUL")
        if equals:  # Docker gives a bare name no value, and so no variable
            env[name] = value
    if sum(len(name.encode()) + len(value.encode()) + 2 for name, value in env.items()) > _MAX_ENV:
        raise BadImage(f"the config has more than {_MAX_ENV} bytes of environment")
    return env


def _workdir(text: str) -> str:
    return posixpath.normpath("/" + _text(text, "WorkingDir").lstrip("/"))


def _text(text: str, member: str) -> str:
    if len(text) > _MAX_TEXT or "\0" in text:
        raise BadImage(f"the config's {member} is too long, or has a NUL")
    return text


def _words(words: tuple[str, ...], member: str) -> tuple[str, ...]:
    if len(words) > _MAX_WORDS or sum(map(len, words)) > _MAX_ENV or any("\0" in word for word in words):
        raise BadImage(f"the config's {member} is too long, or has a NUL")
    return words


def _decode(data: bytes, kind: Any, what: str) -> Any:
    if len(data) > MAX_DOCUMENT:
        raise BadImage(f"{what} has {len(data)} bytes; {MAX_DOCUMENT} is the most")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadImage(f"{what} is not what it should be: {error}"[:300]) from error
