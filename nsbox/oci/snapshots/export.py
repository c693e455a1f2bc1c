"""Writes an image, or what a push needs of one, to standard output: ``main([ANY LAYER])``, started by keeper
in the outer namespace.

Standard input is a stream socket: the order comes on it, and a report goes back when all is written. When
whoever asked hangs up, the work is given up. Memory does not grow with the image: each layer of an OCI
layout is read twice, once for its digest, which is its name and stands before it, and once to be sent.
"""

import hashlib
import json
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from nsbox.oci.placing import FOLDER
from nsbox.oci.snapshots import box, lower, packed, tarball
from nsbox.oci.snapshots.copier import DEPTH
from nsbox.oci.snapshots.diff import read_order
from nsbox.oci.unpacking.refusal import Reason, Refused, reported

_SOCKET, _OUT = 0, 1
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"


class Order(NamedTuple):
    """``layers`` are topmost first; ``config`` is the image's without ``rootfs``. ``form``: see
    ``orders.Form``."""

    form: str
    layers: list[str]
    config: dict[str, Any]
    annotations: dict[str, str]
    seconds: float


class _Counted(NamedTuple):
    digest: str
    size: int


def main(arguments: list[str]) -> int:
    """0 when all was written."""
    layers = os.open(os.path.dirname(arguments[0]), FOLDER)
    try:
        report = _written(layers, Order(**read_order(_SOCKET)))
    except (Refused, OSError) as error:
        report = reported(error, "the image")
    except box.Gone:
        return 1
    try:
        os.write(_SOCKET, json.dumps(report).encode())
    except OSError:
        return 1
    return 0


def _written(layers: int, order: Order) -> dict[str, Any]:
    if order.form != "files":
        trees = [box.picture(lower.layer(layers, name)) for name in reversed(order.layers)]
    else:
        trees = [lower.merged(layers, order.layers)]
    out = os.dup(_OUT)  # the child's own 1 is for its report
    os.close(_OUT)

    def work(given: box.Given) -> dict[str, Any]:
        trees, write, left_out = given.trees, _writer(given.kept), 0
        match order.form:
            case "layout":
                left_out = _layout(trees, order, write)
            case "sizes":
                write(_json([packed.measure(_top(tree)) for tree in trees]))
            case "layer":
                packed.send(_top(trees[0]), write)
            case _:
                archive = tarball.Archive(_top(trees[0]), write, whiteouts=False)
                archive.run()
                left_out = archive.left_out
        return {"leftOut": left_out}

    walls = box.Walls(writes=False, descriptors=DEPTH + len(trees) + 64)
    return box.run(trees, work, walls, seconds=order.seconds, hang_up=_SOCKET, kept=out)


def _writer(descriptor: int) -> Callable[[bytes], None]:
    def write(data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]

    return write


def _layout(trees: list[int], order: Order, write: Callable[[bytes], None]) -> int:
    """An OCI image layout as a tar. ``trees``: bottom first."""
    counted = [_count(_top(tree)) for tree in trees]
    config = _json(
        {**order.config, "rootfs": {"type": "layers", "diff_ids": [one.digest for one in counted]}}
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _descriptor(_CONFIG, config),
            "layers": [{"mediaType": _LAYER, "digest": one.digest, "size": one.size} for one in counted],
        }
    )
    top = {**_descriptor(_MANIFEST, manifest), "annotations": order.annotations}
    index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [top]}
    for folder in (b"blobs/", b"blobs/sha256/"):
        write(tarball.header(folder, b"5", mode=0o755, uid=0, gid=0, size=0, mtime_ns=0))
    _member(write, b"oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
    _member(write, b"index.json", _json(index))
    for data in (manifest, config):
        _member(write, _blob(_digest(data)), data)
    left_out = 0
    sent: set[str] = set()
    for tree, one in zip(trees, counted, strict=True):
        if one.digest in sent:  # the same blob stands in a layout once
            continue
        sent.add(one.digest)
        _head(write, _blob(one.digest), one.size)
        archive = tarball.Archive(_top(tree), write, whiteouts=True)
        archive.run()
        left_out += archive.left_out
    write(bytes(1024))
    return left_out


def _top(tree: int) -> int:
    return os.open(".", FOLDER, dir_fd=tree)


def _count(top: int) -> _Counted:
    hashing = hashlib.sha256()
    size = 0

    def write(data: bytes) -> None:
        nonlocal size
        hashing.update(data)
        size += len(data)

    tarball.Archive(top, write, whiteouts=True).run()
    if size % 512:
        raise Refused(Reason.INTERNAL, "an archive that does not end with a block")
    return _Counted(f"sha256:{hashing.hexdigest()}", size)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _descriptor(kind: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": _digest(data), "size": len(data)}


def _blob(digest: str) -> bytes:
    return b"blobs/" + digest.replace(":", "/").encode()


def _head(write: Callable[[bytes], None], path: bytes, size: int) -> None:
    write(tarball.header(path, b"0", mode=0o644, uid=0, gid=0, size=size, mtime_ns=0))


def _member(write: Callable[[bytes], None], path: bytes, data: bytes) -> None:
    _head(write, path, len(data))
    write(data + bytes(-len(data) % 512))
