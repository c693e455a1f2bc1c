"""Makes tiny ELF files, just headers and a dynamic section, for hosts that exist in a test only."""

from __future__ import annotations

import struct
from collections.abc import Sequence

X86_64, AARCH64, I386 = 62, 183, 3
_BASE = 0x400000  # so that addresses and offsets differ, as they do in real files


def make_elf(
    needed: Sequence[str] = (),
    *,
    rpath: str = "",
    runpath: str = "",
    interpreter: str = "",
    machine: int = X86_64,
    bits: int = 64,
    order: str = "<",
) -> bytes:
    """A file that the reader must understand in full."""
    wide = bits == 64
    header_size, segment_size = (64, 56) if wide else (52, 32)
    segment_count = 3 if interpreter else 2
    strings = b"\0"
    rows: list[tuple[int, int]] = []
    for tag, text in [*((1, name) for name in needed), (15, rpath), (29, runpath)]:
        if text:
            rows.append((tag, len(strings)))
            strings += text.encode() + b"\0"
    start = header_size + segment_size * segment_count
    dynamic_size = (len(rows) + 3) * (16 if wide else 8)
    strings_at = start + dynamic_size
    interpreter_at = strings_at + len(strings)
    rows += [(5, _BASE + strings_at), (10, len(strings)), (0, 0)]
    dynamic = b"".join(struct.pack(order + ("QQ" if wide else "II"), *row) for row in rows)
    end = interpreter_at + len(interpreter) + 1
    segments = [(1, 0, end), (2, start, dynamic_size)]
    if interpreter:
        segments.insert(0, (3, interpreter_at, len(interpreter) + 1))
    table = b"".join(_segment(order, wide, *segment) for segment in segments)
    codes = "HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH"
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1 if order == "<" else 2, 1]) + bytes(9)
    header = ident + struct.pack(
        order + codes, 3, machine, 1, 0, header_size, 0, 0, header_size, segment_size, segment_count, 0, 0, 0
    )
    return header + table + dynamic + strings + interpreter.encode() + b"\0"


def _segment(order: str, wide: bool, kind: int, offset: int, size: int) -> bytes:
    if wide:
        return struct.pack(order + "IIQQQQQQ", kind, 4, offset, _BASE + offset, 0, size, size, 4096)
    return struct.pack(order + "IIIIIIII", kind, offset, _BASE + offset, 0, size, size, 4, 4096)
