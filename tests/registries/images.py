"""Images made by hand: layers as tar archives in memory, configs, manifests, whole archives of them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from typing import Any, NamedTuple

import zstandard

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def tar(files: dict[str, bytes | str | None], mode: int = 0o755) -> bytes:
    """Contents by name: bytes are a file, text is a symlink's target, None is a folder."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.mode = mode
            if content is None:
                entry.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
            else:
                entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content) if isinstance(content, bytes) else None)
    return raw.getvalue()


class MadeLayer(NamedTuple):
    """A layer as it travels, and what it is inside."""

    blob: bytes
    diff_id: str
    suffix: str

    @property
    def digest(self) -> str:
        return sha256(self.blob)


def layer(files: dict[str, bytes | str | None], packed: str = "gzip", mode: int = 0o755) -> MadeLayer:
    plain = tar(files, mode)
    if packed == "gzip":
        blob, suffix = gzip.compress(plain, 1, mtime=0), "+gzip"
    elif packed == "zstd":
        blob, suffix = zstandard.compress(plain), "+zstd"
    else:
        blob, suffix = plain, ""
    return MadeLayer(blob, sha256(plain), suffix)


class MadeImage(NamedTuple):
    """A manifest with all it points to."""

    manifest: bytes
    media_type: str
    blobs: dict[str, bytes]
    layers: tuple[MadeLayer, ...]
    config: bytes

    @property
    def digest(self) -> str:
        return sha256(self.manifest)

    def descriptor(self, **more: Any) -> dict[str, Any]:
        size = len(self.manifest)
        return {"mediaType": self.media_type, "digest": self.digest, "size": size, **more}


def image(
    layers: list[MadeLayer],
    *,
    docker: bool = False,
    architecture: str = "amd64",
    rootfs: list[str] | None = None,
    **config: Any,
) -> MadeImage:
    """``config`` are members of the config's ``config``: Env, User, ..."""
    diff_ids = rootfs if rootfs is not None else [one.diff_id for one in layers]
    document = {
        "os": "linux",
        "architecture": architecture,
        "created": "2026-01-01T00:00:00Z",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    text = json.dumps(document).encode()
    kind = DOCKER_MANIFEST if docker else OCI_MANIFEST
    rows = []
    for one in layers:
        suffix = one.suffix.replace("+", ".") if docker else one.suffix
        name = (DOCKER_LAYER if docker else OCI_LAYER) + suffix
        rows.append({"mediaType": name, "digest": one.digest, "size": len(one.blob)})
    manifest = {
        "schemaVersion": 2,
        "mediaType": kind,
        "config": {
            "mediaType": DOCKER_CONFIG if docker else OCI_CONFIG,
            "digest": sha256(text),
            "size": len(text),
        },
        "layers": rows,
    }
    blobs = {one.digest: one.blob for one in layers} | {sha256(text): text}
    return MadeImage(json.dumps(manifest).encode(), kind, blobs, tuple(layers), text)


def index(entries: list[dict[str, Any]], docker: bool = False) -> tuple[bytes, str]:
    """A list of manifests, and its type."""
    kind = DOCKER_LIST if docker else OCI_INDEX
    return json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).encode(), kind


def layout_tar(made: MadeImage, name: str = "", top: list[dict[str, Any]] | None = None) -> bytes:
    """An OCI layout in a tar."""
    notes = {"annotations": {"org.opencontainers.image.ref.name": name}} if name else {}
    document = {"schemaVersion": 2, "manifests": top or [made.descriptor(**notes)]}
    files: dict[str, bytes | str | None] = {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": json.dumps(document).encode(),
    }
    for digest, blob in {**made.blobs, made.digest: made.manifest}.items():
        files[f"blobs/{digest.replace(':', '/')}"] = blob
    return tar(files)


def docker_tar(made: MadeImage, tags: list[str] | None = None, **more: bytes | str | None) -> bytes:
    """What ``docker save`` wrote before it wrote layouts."""
    files: dict[str, bytes | str | None] = {"config.json": made.config}
    names = []
    for number, one in enumerate(made.layers):
        names.append(f"{number}/layer.tar")
        files[names[-1]] = one.blob
    manifest = [{"Config": "config.json", "RepoTags": tags, "Layers": names}]
    return tar({**files, "manifest.json": json.dumps(manifest).encode(), **more})
