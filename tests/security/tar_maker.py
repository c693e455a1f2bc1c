"""Archives made by hand, block by block: nothing sane stands between a test and what it wants to send."""

from __future__ import annotations

from typing import Any

END = bytes(1024)


def entry(
    name: bytes = b"file",
    kind: bytes = b"0",
    data: bytes = b"",
    *,
    link: bytes = b"",
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime: int = 1_600_000_000,
    size: int | bytes | None = None,
    pax: dict[bytes, bytes] | None = None,
    **fields: bytes,
) -> bytes:
    """A header and its data; with ``pax``, an extended header before it. ``fields`` overwrite raw fields."""
    before = b"" if pax is None else extended(pax)
    stated = len(data) if size is None else size
    block = bytearray(512)
    _put(block, 0, 100, name)
    _put(block, 100, 8, fields.get("raw_mode", b"%07o\0" % mode))
    _put(block, 108, 8, fields.get("raw_uid", number(uid, 8)))
    _put(block, 116, 8, fields.get("raw_gid", number(gid, 8)))
    _put(block, 124, 12, stated if isinstance(stated, bytes) else number(stated, 12))
    _put(block, 136, 12, fields.get("raw_mtime", number(mtime, 12)))
    _put(block, 156, 1, kind)
    _put(block, 157, 100, link)
    _put(block, 257, 8, fields.get("magic", b"ustar\x0000"))
    _put(block, 345, 155, fields.get("prefix", b""))
    for at, value in ((int(key[2:]), value) for key, value in fields.items() if key.startswith("at")):
        block[at : at + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = fields.get("checksum", b"%06o\0 " % sum(block))
    return before + bytes(block) + padded(data)


def _put(block: bytearray, at: int, room: int, value: bytes) -> None:
    block[at : at + room] = value[:room].ljust(room, b"\0")


def number(value: int, room: int) -> bytes:
    """Octal, or base 256 where that is too short."""
    if 0 <= value < 8 ** (room - 1):
        return b"%0*o\0" % (room - 1, value)
    data = value.to_bytes(room, "big", signed=value < 0)
    return bytes([data[0] | 0x80]) + data[1:]


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def record(key: bytes, value: bytes) -> bytes:
    """One record of an extended header."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(b"%d" % length) + len(rest) != length:
        length = len(b"%d" % length) + len(rest)
    return b"%d" % length + rest


def extended(pax: dict[bytes, bytes], kind: bytes = b"x") -> bytes:
    return entry(b"PaxHeader", kind, b"".join(record(key, value) for key, value in pax.items()))


def folder(name: bytes, **more: Any) -> bytes:
    return entry(name, b"5", **({"mode": 0o755} | more))


def symlink(name: bytes, target: bytes, **more: Any) -> bytes:
    return entry(name, b"2", link=target, **more)


def hard_link(name: bytes, target: bytes, **more: Any) -> bytes:
    return entry(name, b"1", link=target, **more)


def long_name(name: bytes) -> bytes:
    """GNU's way to say a name that does not fit."""
    return entry(b"././@LongLink", b"L", name + b"\0")


def long_link(name: bytes) -> bytes:
    return entry(b"././@LongLink", b"K", name + b"\0")


def archive(*entries: bytes) -> bytes:
    return b"".join(entries) + END
