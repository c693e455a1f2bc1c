"""A place to unpack hostile layers in: a real keeper, a canary outside of the layer, and what is left
after.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import stat
import subprocess
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
from tests.e2e.account import CHECKOUT, runner
from tests.kernel.test_embed_worker import OUTER
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
        self.state_dir, self.who, self.keeper_pid = keeper.state_dir, keeper.who, keeper.pid
        #: What a sandbox's root is outside.
        self.first_id = facts.sub_ids("/etc/subuid", self.who.name, self.who.uid)[0].start
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
        descriptor = in_memory(blob) if isinstance(blob, bytes) else blob
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
        first = self.first_id
        found = {".": _seen(top, first)}
        for folder, folders, files in os.walk(top):
            for one in folders + files:
                path = os.path.join(folder, one)
                found[os.path.relpath(path, top)] = _seen(path, first)
        return found

    def weakened(self, blob: bytes, *walls: str, name: str = "weak") -> dict[str, Any]:
        """What the worker reports when it lacks ``walls``, without keeper. A layer that it made stays."""
        ours, theirs = socket.socketpair()
        data = in_memory(blob)
        path = f"{self.state_dir}/layers/{name}"
        order = {"without": walls, "path": path, "blob": data, "socket": theirs.fileno()}
        with ours, theirs:
            ours.send(json.dumps({"compression": "none", "diff_id": None, "limits": _LIMITS}).encode())
            done = subprocess.run(
                [self.who.python, "-c", _OUTSIDE, str(CHECKOUT), json.dumps(order)],
                pass_fds=(data, theirs.fileno()),
                capture_output=True, text=True, timeout=60, check=False, cwd="/", **self.who.identity,
            )  # fmt: skip
            os.close(data)
            assert done.returncode == 0, done.stderr
            told: dict[str, Any] = json.loads(ours.recv(65_536))
        return told

    def probe(self, *walls: str) -> dict[str, Any]:
        """What the box is like for the code that reads a layer."""
        seen: dict[str, Any] = json.loads(self.weakened(b"", "reading", *walls)["detail"])
        return seen

    def in_outer(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Python as root of an outer namespace."""
        return subprocess.run(
            [self.who.python, "-c", OUTER, self.who.python, "-c", script, *arguments],
            capture_output=True, text=True, check=False, cwd=CHECKOUT, **self.who.identity,
        )  # fmt: skip

    def left(self) -> list[str]:
        """What is in the folder of layers."""
        return sorted(os.listdir(f"{self.state_dir}/layers"))


_OUTSIDE = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from nsbox.host import outer
from nsbox import supervisor
order = json.loads(sys.argv[2])
inherited = (order["blob"], order["socket"])
pid = outer.start("tests.security.weakened_unpacker", sys.argv[2], *supervisor.subordinate_ids(), inherited)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
_LIMITS = {"max_bytes": 1 << 30, "max_entries": 10_000, "max_ratio": 200, "max_depth": 128, "seconds": 20}


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


def in_memory(data: bytes) -> int:
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
