"""Which libraries a program of the host needs: read from its ELF headers, never by running it.

``ldd`` is no help here: it *executes* the program's own loader (see SECURITY in ldd(1)). What follows are the
rules of ld.so(8): DT_RPATH of the object and of those that loaded it (only where there is no DT_RUNPATH),
DT_RUNPATH, ``/etc/ld.so.cache``, then the default directories. ``LD_LIBRARY_PATH`` is left out: it belongs to
a user's session, not to the host.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

#: ``read_at(offset, size)`` gives at most ``size`` bytes. Not mmap: a file that an upgrade cuts short would
#: end us by SIGBUS.
ReadAt = Callable[[int, int], bytes]

MAGIC = b"\x7fELF"
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NULL, _DT_NEEDED, _DT_STRTAB, _DT_STRSZ = 0, 1, 5, 10
_DT_SONAME, _DT_RPATH, _DT_RUNPATH = 14, 15, 29

# Bounds for what is believed of a file. Real files stay far below them.
_MAX_PROGRAM_HEADERS = 1024
_MAX_DYNAMIC = 1 << 20
_MAX_STRING = 4096


class ElfError(Exception):
    """The file is not an ELF file, or is damaged."""


class Elf(NamedTuple):
    """What the dynamic loader would look at."""

    bits: int
    machine: int
    interpreter: str | None
    needed: tuple[str, ...]
    rpath: tuple[str, ...]
    runpath: tuple[str, ...]
    soname: str | None

    def same_kind(self, other: Elf) -> bool:
        """Whether the loader would map both into one process."""
        return (self.bits, self.machine) == (other.bits, other.machine)


class _Segment(NamedTuple):
    kind: int
    offset: int
    address: int
    size: int


class _Layout(NamedTuple):
    """How numbers are stored in this file."""

    order: str
    bits: int

    def unpack(self, codes: str, data: bytes) -> tuple[int, ...]:
        try:
            return struct.unpack_from(self.order + codes, data)
        except struct.error as error:
            raise ElfError(f"cut short: {error}") from error


def parse(read_at: ReadAt) -> Elf:
    """Read the headers. Raises ``ElfError`` for anything that is not a sound ELF file, and nothing else."""
    ident = read_at(0, 64)
    if ident[:4] != MAGIC:
        raise ElfError("not an ELF file")
    if len(ident) < 52 or ident[4] not in (1, 2) or ident[5] not in (1, 2):
        raise ElfError("an ELF header of an unknown kind")
    layout = _Layout("<" if ident[5] == 1 else ">", 32 if ident[4] == 1 else 64)
    (machine,) = layout.unpack("H", ident[18:20])
    segments = _segments(layout, ident, read_at)
    interpreter = None
    dynamic: list[tuple[int, int]] = []
    for segment in segments:
        if segment.kind == _PT_INTERP:
            interpreter = _string(read_at, segment.offset, min(segment.size, _MAX_STRING))
        elif segment.kind == _PT_DYNAMIC:
            dynamic = _dynamic(layout, segment, read_at)
    return _describe(layout.bits, machine, interpreter, dynamic, segments, read_at)


def _segments(layout: _Layout, ident: bytes, read_at: ReadAt) -> list[_Segment]:
    if layout.bits == 64:
        (table,) = layout.unpack("Q", ident[32:40])
        size, count = layout.unpack("HH", ident[54:58])
        codes, fields = "IIQQQQ", (0, 2, 3, 5)  # p_type, p_offset, p_vaddr, p_filesz
    else:
        (table,) = layout.unpack("I", ident[28:32])
        size, count = layout.unpack("HH", ident[42:46])
        codes, fields = "IIIII", (0, 1, 2, 4)
    if count > _MAX_PROGRAM_HEADERS:
        raise ElfError(f"{count} program headers")
    data = read_at(table, size * count)
    segments = []
    for index in range(count):
        row = layout.unpack(codes, data[index * size : (index + 1) * size])
        segments.append(_Segment(*(row[field] for field in fields)))
    return segments


def _dynamic(layout: _Layout, segment: _Segment, read_at: ReadAt) -> list[tuple[int, int]]:
    if segment.size > _MAX_DYNAMIC:
        raise ElfError("a dynamic section of an absurd size")
    codes, step = ("QQ", 16) if layout.bits == 64 else ("II", 8)
    data = read_at(segment.offset, segment.size)
    rows = []
    for start in range(0, len(data) - step + 1, step):
        tag, value = layout.unpack(codes, data[start : start + step])
        if tag == _DT_NULL:
            break
        rows.append((tag, value))
    return rows


def _describe(
    bits: int,
    machine: int,
    interpreter: str | None,
    dynamic: list[tuple[int, int]],
    segments: list[_Segment],
    read_at: ReadAt,
) -> Elf:
    single = dict(dynamic)
    strings = _strings(single, segments, read_at)

    def text(tag: int) -> str | None:
        return strings(single[tag]) if tag in single else None

    def folders(tag: int) -> tuple[str, ...]:
        return tuple(part for part in (text(tag) or "").split(":") if part)

    return Elf(
        bits,
        machine,
        interpreter,
        needed=tuple(strings(value) for tag, value in dynamic if tag == _DT_NEEDED),
        rpath=folders(_DT_RPATH),
        runpath=folders(_DT_RUNPATH),
        soname=text(_DT_SONAME),
    )


def _strings(dynamic: Mapping[int, int], segments: list[_Segment], read_at: ReadAt) -> Callable[[int], str]:
    """A reader of the dynamic string table, which the headers give as a memory address."""
    address, size = dynamic.get(_DT_STRTAB, 0), dynamic.get(_DT_STRSZ, 0)
    home = next(
        (s for s in segments if s.kind == _PT_LOAD and s.address <= address < s.address + s.size), None
    )

    def string(index: int) -> str:
        if home is None or index >= size:
            raise ElfError("a name outside the string table")
        return _string(read_at, home.offset + address - home.address + index, min(size - index, _MAX_STRING))

    return string


def _string(read_at: ReadAt, offset: int, limit: int) -> str:
    raw, end, _ = read_at(offset, limit).partition(b"\0")
    if not end or not raw:
        raise ElfError("an empty or endless name")
    return os.fsdecode(raw)


def read(path: str) -> Elf | None:
    """The headers of a file, or None when it is not an ELF file.

    Raises ``ElfError`` for a damaged one and ``OSError`` where it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        # One system call instead of a handful: everything asked for is nearly always in the first pages.
        head = os.pread(descriptor, 16384, 0)
        if head[:4] != MAGIC:
            return None

        def read_at(offset: int, size: int) -> bytes:
            if offset + size <= len(head):
                return head[offset : offset + size]
            try:
                return os.pread(descriptor, size, offset)
            except (OSError, OverflowError) as error:
                raise ElfError(f"cannot read {size} bytes at {offset}: {error}") from error

        return parse(read_at)
    finally:
        os.close(descriptor)


class Missing(NamedTuple):
    """A need that the host does not meet."""

    library: str
    wanted_by: str


class Closure(NamedTuple):
    """All that one object needs: paths on the host as the loader would open them, links not resolved."""

    paths: tuple[str, ...]
    missing: tuple[Missing, ...]


class _Object(NamedTuple):
    path: str
    elf: Elf
    loader: _Object | None


class Linker:
    """ld.so's search, on the files below ``root``. Remembers what it has read."""

    def __init__(self, root: str, cache: Mapping[str, tuple[str, ...]], folders: tuple[str, ...]) -> None:
        self._root = root.rstrip("/")
        self._cache = cache
        self._folders = folders
        self._read: dict[str, Elf | None] = {}

    def elf(self, path: str) -> Elf | None:
        """The headers of ``path``; None for what is not there, unreadable, damaged or no ELF file."""
        if path not in self._read:
            try:
                self._read[path] = read(self._root + path)
            except (ElfError, OSError):
                self._read[path] = None
        return self._read[path]

    def closure(self, path: str) -> Closure:
        """Breadth first, as the loader does it: the first library of a name serves all who ask for it."""
        elf = self.elf(path)
        if elf is None:
            return Closure((), ())
        found: dict[str, str] = {}
        missing: list[Missing] = []
        if elf.interpreter is not None:
            if self.elf(elf.interpreter) is None:
                missing.append(Missing(elf.interpreter, path))
            else:
                found[os.path.basename(elf.interpreter)] = elf.interpreter
        queue = [_Object(path, elf, None)]
        for item in queue:
            for name in item.elf.needed:
                if name in found or any(name == lost.library for lost in missing):
                    continue
                place = self._find(name, item)
                library = self.elf(place) if place else None
                if place is None or library is None:
                    missing.append(Missing(name, item.path))
                    continue
                found[name] = place
                queue.append(_Object(place, library, item))
        return Closure(tuple(found.values()), tuple(missing))

    def find(self, name: str, like: str) -> str | None:
        """Where ``dlopen(name)`` would find a library in a process of the kind of ``like``."""
        elf = self.elf(like)
        return self._find(name, _Object(like, elf._replace(rpath=(), runpath=()), None)) if elf else None

    def _find(self, name: str, wanted_by: _Object) -> str | None:
        if "/" in name:
            return self._expand(name, wanted_by)
        for path in self._candidates(name, wanted_by):
            # A library of another architecture is passed over, as ld.so does it.
            library = self.elf(path)
            if library is not None and library.same_kind(wanted_by.elf):
                return path
        return None

    def _candidates(self, name: str, wanted_by: _Object) -> Iterator[str]:
        if not wanted_by.elf.runpath:
            ancestor: _Object | None = wanted_by
            while ancestor is not None:
                if not ancestor.elf.runpath:
                    for folder in ancestor.elf.rpath:
                        yield f"{self._expand(folder, ancestor)}/{name}"
                ancestor = ancestor.loader
        for folder in wanted_by.elf.runpath:
            yield f"{self._expand(folder, wanted_by)}/{name}"
        yield from self._cache.get(name, ())
        for folder in self._folders:
            yield f"{folder}/{name}"

    def _expand(self, text: str, item: _Object) -> str:
        """``$ORIGIN`` is the folder of the real file: /usr/bin/npm-like links do not move it."""
        if "$" not in text:
            return text
        real = os.path.realpath(self._root + item.path)
        origin = os.path.dirname(real)[len(os.path.realpath(self._root or "/").rstrip("/")) :] or "/"
        library = "lib64" if item.elf.bits == 64 else "lib"
        for variable, value in (("ORIGIN", origin), ("LIB", library)):
            text = text.replace("${" + variable + "}", value).replace("$" + variable, value)
        return os.path.normpath(text)
