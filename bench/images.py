"""Images to unpack, as OCI layouts with one gzip layer, made of what every host has."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import subprocess
import tarfile
import zlib
from typing import Any, NamedTuple

from nsbox.oci.manifests import host_platform

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
SMALL_FILES = 20_000
_SMALL_SIZE = 2_000
_FOLDERS = 200
#: Of the host's own programs and libraries, enough for a layer of well over 100 MB.
_BIG = (
    "usr/bin",
    "usr/sbin",
    "usr/share/doc",
    "usr/share/perl",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/python3",
)
_BIG_BYTES = 450 << 20


class Image(NamedTuple):
    """A layout folder, with the one layer's blob in it."""

    layout: str
    blob: str
    digest: str
    diff_id: str
    compressed: int
    size: int


def small(folder: str) -> Image:
    """Many small files: 2,000 bytes each of what compresses about as well as source code."""
    words = [bytes(random.Random(word).choices(b"abcdefghijklmnopqrstuvwxyz_", k=7)) for word in range(2000)]
    chosen = random.Random(1)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for number in range(SMALL_FILES):
            if number % (SMALL_FILES // _FOLDERS) == 0:
                parent = tarfile.TarInfo(f"srv/{number // (SMALL_FILES // _FOLDERS):03}")
                parent.type, parent.mode, parent.mtime = tarfile.DIRTYPE, 0o755, 1_700_000_000
                tar.addfile(parent)
            file = tarfile.TarInfo(f"{parent.name}/{number:05}.txt")
            file.size, file.mtime = _SMALL_SIZE, 1_700_000_000
            text = b" ".join(chosen.choices(words, k=_SMALL_SIZE // 8 + 1))[:_SMALL_SIZE]
            tar.addfile(file, io.BytesIO(text))
    return _layout(folder, out.getvalue())


def big(folder: str) -> Image:
    """The host's own programs, libraries and documents."""
    there = [path for path in _BIG if os.path.isdir(f"/{path}")]
    names: list[bytes] = []
    size = 0
    for top in there:
        for where, folders, files in os.walk(f"/{top}"):
            for name in folders + files:
                path = os.path.join(where, name)
                status = os.lstat(path)
                if size < _BIG_BYTES and os.access(
                    path, os.R_OK, follow_symlinks=os.path.islink(path) is False
                ):
                    names.append(os.fsencode(path[1:]))
                    size += status.st_size if os.path.isfile(path) and not os.path.islink(path) else 0
    done = subprocess.run(
        ["tar", "-C", "/", "--no-recursion", "--null", "-T", "-", "--hard-dereference", "-cf", "-"],
        input=b"\0".join(names), capture_output=True, check=True,
    )  # fmt: skip
    return _layout(folder, done.stdout)


def layout_tar(layers: list[bytes]) -> bytes:
    """A layout of plain layers as a tar in memory, for an import."""
    files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}

    def put(media_type: str, data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        files[f"blobs/sha256/{digest}"] = data
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    rows = [put("application/vnd.oci.image.layer.v1.tar", layer) for layer in layers]
    top = put(
        _MANIFEST, _json(_manifest(put(_CONFIG, _json(_config([row["digest"] for row in rows]))), rows))
    )
    files["index.json"] = _json({"schemaVersion": 2, "manifests": [top]})
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def _config(diff_ids: list[str]) -> dict[str, Any]:
    rootfs = {"type": "layers", "diff_ids": diff_ids}
    return {"architecture": host_platform().architecture, "os": "linux", "config": {}, "rootfs": rootfs}


def _manifest(config: dict[str, Any], layers: list[dict[str, Any]]) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": _MANIFEST, "config": config, "layers": layers}


def _layout(folder: str, archive: bytes) -> Image:
    blobs = os.path.join(folder, "blobs", "sha256")
    os.makedirs(blobs)
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    blob = packer.compress(archive) + packer.flush()
    diff_id = f"sha256:{hashlib.sha256(archive).hexdigest()}"
    layer = _put(blobs, "application/vnd.oci.image.layer.v1.tar+gzip", blob)
    config = _put(blobs, _CONFIG, _json(_config([diff_id])))
    top = _put(blobs, _MANIFEST, _json(_manifest(config, [layer])))
    top["annotations"] = {"org.opencontainers.image.ref.name": "it"}
    _write(os.path.join(folder, "index.json"), _json({"schemaVersion": 2, "manifests": [top]}))
    _write(os.path.join(folder, "oci-layout"), _json({"imageLayoutVersion": "1.0.0"}))
    digest = layer["digest"].partition(":")[2]
    return Image(folder, os.path.join(blobs, digest), digest, diff_id, len(blob), len(archive))


def _put(blobs: str, media_type: str, data: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    _write(os.path.join(blobs, digest), data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
