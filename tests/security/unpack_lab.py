"""A place to unpack hostile layers in: a real keeper, a canary outside of the layer, and what is left
after.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import trio

from nsbox.host import facts
from nsbox.host.keeper import KeeperLink
from nsbox.oci import layers
from nsbox.oci.layers import Caps, Compression, LayerRefused, LayerReport
from tests.kernel.test_keeper import Keeper

Digest = dict[str, tuple[Any, ...]]


class Seen(NamedTuple):
    """One thing in a layer, with ids as a sandbox sees them."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    links: int
    content: bytes
    xattrs: dict[str, bytes]

    @property
    def kind(self) -> str:
        return stat.filemode(self.mode)[0]

    @property
    def permissions(self) -> int:
        return stat.S_IMODE(self.mode)

    @property
    def is_whiteout(self) -> bool:
        return self.kind == "c"


class Unpacked(NamedTuple):
    """What became of a blob: a report or a refusal, and the tree."""

    report: LayerReport | None
    refusal: LayerRefused | None
    tree: dict[str, Seen]

    @property
    def reason(self) -> str:
        return "" if self.refusal is None else self.refusal.reason.value


class Lab:
    """Layers are made one after the other, each with a name of its own."""

    def __init__(self, keeper: Keeper) -> None:
        self.state_dir = keeper.state_dir
        self._name, self._uid = keeper.who.name, keeper.who.uid
        self._serial = 0

    async def unpack(
        self,
        blob: bytes | int,
        *,
        compression: Compression = Compression.NONE,
        diff_id: str | None = None,
        caps: Caps | None = None,
        name: str | None = None,
        keep: bool = False,
    ) -> Unpacked:
        """Unpack as the product does. The layer is looked at and, unless ``keep``, removed."""
        self._serial += 1
        name = name or f"layer-{self._serial}"
        descriptor = _in_memory(blob) if isinstance(blob, bytes) else blob
        run = os.open(f"{self.state_dir}/run", os.O_RDONLY | os.O_DIRECTORY)
        link = KeeperLink(run, lambda _: None)
        try:
            await link.greet()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.listen)
                try:
                    report, refusal = (
                        await layers.unpack(
                            link, descriptor, name, compression=compression, diff_id=diff_id, caps=caps
                        ),
                        None,
                    )
                except LayerRefused as error:
                    report, refusal = None, error
                nursery.cancel_scope.cancel()
        finally:
            link.close()
            os.close(run)
            if isinstance(blob, bytes):
                os.close(descriptor)
        path = f"{self.state_dir}/layers/{name}"
        tree = self.look(path) if report else {}
        if report and not keep:
            shutil.rmtree(path)
        return Unpacked(report, refusal, tree)

    def look(self, top: str) -> dict[str, Seen]:
        """All that is in a folder, and the folder itself as "."."""
        first = facts.sub_ids("/etc/subuid", self._name, self._uid)[0].start
        found = {".": _seen(top, first)}
        for folder, folders, files in os.walk(top):
            for one in folders + files:
                path = os.path.join(folder, one)
                found[os.path.relpath(path, top)] = _seen(path, first)
        return found

    def left(self) -> list[str]:
        """What is in the folder of layers."""
        return sorted(os.listdir(f"{self.state_dir}/layers"))


def _seen(path: str, first: int) -> Seen:
    status = os.lstat(path)
    content, xattrs = b"", {}
    if stat.S_ISREG(status.st_mode) and status.st_size < 1 << 24:
        with open(path, "rb") as file:
            content = file.read()
    if stat.S_ISLNK(status.st_mode):
        content = os.readlink(os.fsencode(path))
    if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
        xattrs = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    return Seen(
        status.st_mode,
        status.st_uid - first,
        status.st_gid - first,
        status.st_mtime_ns,
        status.st_size,
        status.st_nlink,
        content,
        xattrs,
    )


def fingerprint(top: str) -> Digest:
    """Everything about a tree that an escape could change: contents, owners, modes, times, links,
    attributes.
    """
    found: Digest = {}
    for folder, folders, files in os.walk(top):
        for path in [folder, *(os.path.join(folder, one) for one in folders + files)]:
            status = os.lstat(path)
            content = b""
            if stat.S_ISREG(status.st_mode):
                with open(path, "rb") as file:
                    content = hashlib.sha256(file.read()).digest()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(os.fsencode(path))
            found[path] = (
                *status[:7],
                status.st_mtime_ns,
                status.st_ctime_ns,
                content,
                os.listxattr(path, follow_symlinks=False),
            )
    return found


def _in_memory(data: bytes) -> int:
    descriptor = os.memfd_create("blob", os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


@contextmanager
def lab() -> Iterator[Lab]:
    """Root only: what belongs to sandbox ids is looked at from outside."""
    if os.geteuid() != 0:
        pytest.skip("only root can look into layers that belong to sandbox ids")
    from tests.e2e.account import runner

    who = runner()
    state_dir = tempfile.mkdtemp(prefix="nsbox-unpack-", dir="/var/tmp")
    os.mkdir(f"{state_dir}/layers", 0o700)
    for path in (state_dir, f"{state_dir}/layers"):
        os.chown(path, who.uid, who.gid)
    keeper = Keeper(state_dir)
    keeper.sock.close()
    try:
        yield Lab(keeper)
    finally:
        keeper.close()
        shutil.rmtree(state_dir, ignore_errors=True)
