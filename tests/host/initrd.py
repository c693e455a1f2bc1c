"""A RAM disk with three drivers and one script in place of initramfs-tools' own, which takes long to boot."""

from __future__ import annotations

import lzma
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

_FOLDER, _PROGRAM, _FILE = 0o040755, 0o100755, 0o100644


class Entry(NamedTuple):
    """A member of the archive."""

    name: str
    mode: int
    data: bytes = b""


def make(root: Path, wanted: Sequence[str], script: str) -> bytes:
    """The archive for the kernel that is installed below ``root``."""
    (kernel,) = (root / "usr/lib/modules").iterdir()
    modules = list(_modules(kernel, wanted))
    entries = [Entry(name, _FOLDER) for name in ("bin", "dev", "proc", "sys", "root", "modules")]
    entries += [
        Entry("bin/busybox", _PROGRAM, (root / "bin/busybox").read_bytes()),
        Entry("init", _PROGRAM, script.encode()),
        Entry("modules/order", _FILE, "".join(f"{name}\n" for name, _ in modules).encode()),
    ]
    entries += [Entry(f"modules/{name}", _FILE, data) for name, data in modules]
    return b"".join(_packed(entries))


def _modules(kernel: Path, wanted: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """File name and contents of each module and what it depends on, in the order to load them."""
    lines = (kernel / "modules.dep").read_text().splitlines()
    needs = {path: rest.split() for path, _, rest in (line.partition(":") for line in lines)}
    by_name = {os.path.basename(path).partition(".")[0].replace("-", "_"): path for path in needs}
    done: set[str] = set()
    for name in wanted:
        if name not in by_name:
            continue  # built in
        path = by_name[name]
        # modules.dep names what a module needs outermost last: the last one is to be loaded first.
        for one in [*reversed(needs[path]), path]:
            if one in done:
                continue
            done.add(one)
            data = (kernel / one).read_bytes()
            packed = one.endswith(".xz")
            yield os.path.basename(one).removesuffix(".xz"), lzma.decompress(data) if packed else data


def _packed(entries: Sequence[Entry]) -> Iterator[bytes]:
    """cpio's "newc" format: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel."""
    for number, entry in enumerate([*entries, Entry("TRAILER!!!", 0)], 1):
        name = entry.name.encode() + b"\0"
        # inode, mode, uid, gid, links, mtime, size, four device numbers, length of the name, checksum
        fields = (number, entry.mode, 0, 0, 1, 0, len(entry.data), 0, 0, 0, 0, len(name), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
        yield head + bytes(-len(head) % 4) + entry.data + bytes(-len(entry.data) % 4)
