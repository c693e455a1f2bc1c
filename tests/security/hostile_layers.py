"""Layers as somebody would make them who wants out, or wants to break the host. Pure data.

A case's ``wants`` is either the reason of a refusal, or what the layer's tree shall hold: paths with their
kind (``-``, ``d``, ``l``, ``c``, ``p``), and nothing else but the canary's own path, made inside. ``out`` is
that path outside, absolute; ``up`` is the way there from below.
"""

from __future__ import annotations

import gzip
import struct
from typing import NamedTuple

import zstandard

from nsbox.oci.layers import Caps, Compression
from tests.security.tar_maker import (
    END,
    archive,
    entry,
    extended,
    folder,
    hard_link,
    long_link,
    long_name,
    number,
    record,
    symlink,
)  # fmt: skip

Tree = dict[str, str]


class Case(NamedTuple):
    name: str
    blob: bytes
    wants: str | Tree
    compression: Compression = Compression.NONE
    caps: Caps | None = None
    diff_id: str | None = None


def caps(**more: int) -> Caps:
    return Caps(**more)  # type: ignore[arg-type]


def climb(out: bytes) -> bytes:
    """The way from a folder some levels down."""
    return b"../" * 12 + out[1:]


def bad(name: str, *entries: bytes, why: str) -> Case:
    return Case(name, archive(*entries), why)


def fine(name: str, *entries: bytes, tree: Tree) -> Case:
    return Case(name, archive(*entries), tree)


def _paths(out: bytes) -> list[Case]:
    up = climb(out)
    return [
        bad("dot-dot", entry(b"../../../tmp/pwned", data=b"x"), why="name"),
        bad("dot-dot to the canary", entry(up + b"/pwned", data=b"x"), why="name"),
        bad("dot-dot in the middle", entry(b"a/../../b", data=b"x"), why="name"),
        bad("dot-dot that stays inside", entry(b"a/../b", data=b"x"), why="name"),
        bad("dot-dot by a pax path", entry(pax={b"path": up + b"/pwned"}, data=b"x"), why="name"),
        bad("dot-dot by a GNU long name", long_name(up + b"/pwned") + entry(data=b"x"), why="name"),
        bad("dot-dot by a ustar prefix", entry(b"pwned", data=b"x", prefix=b"../../.."), why="name"),
        bad("dot-dot folder", folder(b"../../../tmp"), why="name"),
        bad("dot-dot as the whole name", folder(b".."), why="name"),
        bad("dot-dot whiteout", entry(b"../.wh.secret"), why="name"),
        fine("absolute path", entry(b"/abs/file", data=b"x"), tree={"abs": "d", "abs/file": "-"}),
        fine("absolute path of the canary", entry(out + b"/file", data=b"pwned"), tree={}),
        fine("slashes and dots", entry(b".//./a/.///b", data=b"x"), tree={"a": "d", "a/b": "-"}),
        bad("no name", entry(b""), why="name"),
        bad("the root as a file", entry(b"/", data=b"x"), why="name"),
        bad("the root as a symlink", symlink(b"./", out), why="name"),
        bad("zero byte in a pax path", entry(pax={b"path": b"a\0/../../b"}), why="name"),
        bad("zero byte in a pax link", symlink(b"l", b"x", pax={b"linkpath": b"a\0b"}), why="name"),
        fine("newline in a name", entry(b"a\nb", data=b"x"), tree={"a\nb": "-"}),
        fine("not UTF-8", entry(b"\xff\xfe", data=b"x"), tree={"\udcff\udcfe": "-"}),
        fine("terminal escapes in a name", entry(b"\x1b[2J", data=b"x"), tree={"\x1b[2J": "-"}),
        bad("a name of 256 bytes", entry(pax={b"path": b"x" * 256}), why="name"),
        bad("a path of 5000 bytes", entry(pax={b"path": b"/".join([b"x" * 200] * 25)}), why="name"),
        bad("129 folders deep", entry(pax={b"path": b"d/" * 129 + b"f"}), why="depth"),
        fine("backslashes are no separators", entry(b"..\\..\\x", data=b"x"), tree={"..\\..\\x": "-"}),
    ]


def _symlinks(out: bytes) -> list[Case]:
    up = climb(out)
    chain = [symlink(b"l%d" % number, b"l%d" % (number + 1)) for number in range(60)]
    return [
        fine(
            "absolute symlink, then a file through it",
            symlink(b"out", out), entry(b"out/pwned", data=b"x"), tree={"out": "l"},
        ),
        fine(
            "relative symlink, then a file through it",
            symlink(b"out", up), entry(b"out/pwned", data=b"x"), tree={"out": "l"},
        ),
        fine(
            "symlink to the canary's file, then that file",
            symlink(b"out", out + b"/file"), entry(b"out", data=b"pwned"), tree={"out": "-"},
        ),
        fine(
            "symlink to the canary, then a folder of that name",
            symlink(b"out", out), folder(b"out", mode=0o700, uid=7), entry(b"out/f", data=b"x"),
            tree={"out": "d", "out/f": "-"},
        ),
        fine(
            "two symlinks that climb together",
            folder(b"a"), symlink(b"a/up", b".."), symlink(b"b", b"a/up/../" + up),
            entry(b"b/pwned", data=b"x"), tree={"a": "d", "a/up": "l", "b": "l"},
        ),
        bad("symlinks in a circle", symlink(b"a", b"b"), symlink(b"b", b"a"), entry(b"a/f"), why="depth"),
        bad("a symlink to itself", symlink(b"a", b"a"), entry(b"a/f"), why="depth"),
        bad("sixty symlinks in a row", *chain, entry(b"l0/f"), why="depth"),
        bad(
            "a symlink that grows when followed",
            symlink(b"a", b"a/" * 40 + b"x"), entry(b"a/f"), why="depth",
        ),
        fine(
            "a dangling symlink as a parent", symlink(b"a", b"made/here"), entry(b"a/f", data=b"x"),
            tree={"a": "l", "made": "d", "made/here": "d", "made/here/f": "-"},
        ),
        fine(
            "/proc/self/root", symlink(b"r", b"/proc/self/root"), entry(b"r/pwned", data=b"x"),
            tree={
                "r": "l", "proc": "d", "proc/self": "d", "proc/self/root": "d", "proc/self/root/pwned": "-",
            },
        ),
        fine(
            "/proc/1/cwd", symlink(b"r", b"/proc/1/cwd"), entry(b"r/f", data=b"x"),
            tree={"r": "l", "proc": "d", "proc/1": "d", "proc/1/cwd": "d", "proc/1/cwd/f": "-"},
        ),
        fine(
            "/dev/fd of the unpacker", symlink(b"r", b"/dev/fd/0"), entry(b"r/f", data=b"x"),
            tree={"r": "l", "dev": "d", "dev/fd": "d", "dev/fd/0": "d", "dev/fd/0/f": "-"},
        ),
        fine(
            "/dev, /proc and /sys as symlinks", symlink(b"dev", out), symlink(b"proc", out),
            symlink(b"sys", out), tree={"dev": "l", "proc": "l", "sys": "l"},
        ),
        bad("an empty symlink", symlink(b"a", b""), why="link"),
        bad("a symlink of 5000 bytes", long_link(b"x" * 5000) + symlink(b"a", b"x"), why="link"),
        fine(
            "a folder replaced by a symlink, then filled",
            folder(b"d"), entry(b"d/f", data=b"x"), symlink(b"d", out), entry(b"d/file", data=b"pwned"),
            tree={"d": "l"},
        ),
        fine(
            "a whiteout through a symlink", symlink(b"out", out), entry(b"out/.wh.gone"), tree={"out": "l"},
        ),
        fine(
            "an opaque mark through a symlink", symlink(b"out", out), entry(b"out/.wh..wh..opq"),
            tree={"out": "l"},
        ),
        fine(
            "a FIFO through a symlink", symlink(b"out", out), entry(b"out/p", b"6"), tree={"out": "l"},
        ),
        fine(
            "mode, owner and time through a symlink at the end",
            symlink(b"out", out), symlink(b"out", out, mode=0o777, uid=5, gid=6), tree={"out": "l"},
        ),
    ]  # fmt: skip


def _hard_links(out: bytes) -> list[Case]:
    up = climb(out)
    return [
        bad("hard link to the canary's file", hard_link(b"h", out + b"/file"), why="link"),
        bad("hard link to it, relative", hard_link(b"h", up + b"/file"), why="name"),
        bad("hard link to /etc/passwd", hard_link(b"h", b"/etc/passwd"), why="link"),
        bad("hard link to /proc/self/exe", hard_link(b"h", b"proc/self/exe"), why="link"),
        bad(
            "hard link through a symlink",
            symlink(b"out", out), hard_link(b"h", b"out/file"), entry(b"h", data=b"pwned"), why="link",
        ),
        fine(
            "hard link to a symlink, written through",
            symlink(b"s", out + b"/file"), hard_link(b"h", b"s"), entry(b"h", data=b"pwned"),
            tree={"s": "l", "h": "-"},
        ),
        bad("hard link to a later file", hard_link(b"h", b"f"), entry(b"f"), why="link"),
        bad("hard link to a folder", folder(b"d"), hard_link(b"h", b"d"), why="link"),
        bad("hard link to the root", hard_link(b"h", b"/"), why="link"),
        bad("hard link to nothing", hard_link(b"h", b""), why="name"),
        bad("hard link to a whiteout", entry(b".wh.f"), hard_link(b"h", b"f"), why="link"),
        fine("hard link to itself", entry(b"f", data=b"x"), hard_link(b"f", b"f"), tree={"f": "-"}),
        bad(
            "hard link that replaces the folder of its target",
            folder(b"d"), entry(b"d/f"), hard_link(b"d", b"d/f"), why="link",
        ),
    ]  # fmt: skip


def _special(_: bytes) -> list[Case]:
    return [
        fine("a disk", entry(b"sda", b"4", at329=b"0000010\0", at337=b"0000000\0"), tree={}),
        fine("/dev/mem", entry(b"mem", b"3", at329=b"0000001\0", at337=b"0000001\0"), tree={}),
        fine("a forged whiteout", entry(b"f", b"3", at329=b"0000000\0", at337=b"0000000\0"), tree={}),
        fine("a FIFO", entry(b"p", b"6"), tree={"p": "p"}),
        fine("a FIFO, then a file of that name", entry(b"p", b"6"), entry(b"p", data=b"x"), tree={"p": "-"}),
        bad("an unknown type", entry(b"x", b"Z"), why="unsupported"),
        bad("a part of another volume", entry(b"x", b"M", b"data"), why="unsupported"),
        bad("a file in a file", entry(b"f", data=b"x"), entry(b"f/g", data=b"y"), why="name"),
        fine("setuid root", entry(b"su", data=b"x", mode=0o6755), tree={"su": "-"}),
        bad("an owner beyond the range", entry(b"f", uid=70_000), why="owner"),
        bad("the daemon's own id", entry(b"f", uid=65_536), why="owner"),
        bad("an owner of 64 bits", entry(b"f", uid=(1 << 62)), why="owner"),
        bad("a negative owner", entry(b"f", raw_uid=b"\xff" * 8), why="owner"),
        bad("a negative owner by pax", entry(b"f", pax={b"uid": b"-1"}), why="corrupt"),
    ]


def _whiteouts(out: bytes) -> list[Case]:
    return [
        bad("a whiteout of nothing", entry(b".wh."), why="name"),
        bad("a whiteout of the folder", entry(b"d/.wh.."), why="name"),
        bad("a whiteout of the parent", entry(b"d/.wh..."), why="name"),
        bad("a file in a whiteout", entry(b".wh.d/f"), why="name"),
        fine("bookkeeping of aufs", entry(b".wh..wh.plnk"), entry(b".wh..wh.aufs"), tree={}),
        fine("a whiteout that is a symlink", symlink(b".wh.x", out), tree={"x": "c"}),
        fine("a whiteout that is a hard link", hard_link(b".wh.x", out + b"/file"), tree={"x": "c"}),
        fine("a whiteout of what is there", entry(b"f", data=b"x"), entry(b".wh.f"), tree={"f": "-"}),
        fine("a whiteout, then the file", entry(b".wh.f"), entry(b"f", data=b"x"), tree={"f": "-"}),
        fine(
            "a whiteout, then something in it", entry(b".wh.d"), entry(b"d/f", data=b"x"),
            tree={"d": "d", "d/f": "-"},
        ),
    ]  # fmt: skip


def _xattrs(_: bytes) -> list[Case]:
    def one(name: bytes, value: bytes) -> bytes:
        return entry(b"f", data=b"x", pax={b"SCHILY.xattr." + name: value})

    many = {b"SCHILY.xattr.user.%d" % number: b"x" for number in range(65)}
    return [
        fine("forged overlay.opaque", one(b"user.overlay.opaque", b"y"), tree={"f": "-"}),
        fine("forged overlay.redirect", one(b"user.overlay.redirect", b"/etc"), tree={"f": "-"}),
        fine("forged overlay.metacopy", one(b"user.overlay.metacopy", b""), tree={"f": "-"}),
        fine("forged overlay.whiteout", one(b"user.overlay.whiteout", b""), tree={"f": "-"}),
        fine("trusted.overlay", one(b"trusted.overlay.opaque", b"y"), tree={"f": "-"}),
        fine("security.selinux", one(b"security.selinux", b"x"), tree={"f": "-"}),
        fine("security.ima", one(b"security.ima", b"x"), tree={"f": "-"}),
        fine("an access list", one(b"system.posix_acl_access", struct.pack("<I", 2)), tree={"f": "-"}),
        fine("a broken capability", one(b"security.capability", b"\1\2\3"), tree={"f": "-"}),
        fine(
            "a capability of another namespace",
            one(b"security.capability", struct.pack("<6I", 0x0300_0001, 1, 0, 0, 0, 1000)), tree={"f": "-"},
        ),
        bad("65 attributes", entry(b"f", pax=many), why="xattrs"),
        bad("an attribute of 60 kB", one(b"user.x", b"x" * 60_000), why="xattrs or harmless"),
        bad("an attribute with a long name", one(b"user." + b"x" * 300, b"x"), why="xattrs"),
        bad("attributes for all", extended({b"SCHILY.xattr.user.x": b"y"}, b"g"), why="unsupported"),
    ]  # fmt: skip


def _headers(_: bytes) -> list[Case]:
    file = entry(b"f", data=b"hello")
    return [
        Case("nothing", b"", "truncated"),
        Case("not an archive", b"hello" * 1000, "corrupt"),
        Case("ends in a header", file[:300], "truncated"),
        Case("ends in a file", file[:514], "truncated"),
        Case("no end mark", file, "truncated"),
        bad("a wrong checksum", entry(b"f", checksum=b"000000\0 "), why="corrupt"),
        bad("letters for a size", entry(b"f", size=b"hello world\0"), why="corrupt"),
        bad("a size with an underscore", entry(b"f", size=b"0000000_100\0"), why="corrupt"),
        bad("a size with a sign", entry(b"f", size=b"+0000000100\0"), why="corrupt"),
        bad("a negative size", entry(b"f", size=b"\xff" * 12), why="corrupt"),
        bad("a size of 95 bits", entry(b"f", size=b"\x80\x7f" + b"\xff" * 10), why="corrupt"),
        bad("a size of 8 EiB", entry(b"f", size=(1 << 63) - 1), why="bytes"),
        bad("a pax size of 8 EiB", entry(b"f", pax={b"size": b"9223372036854775807"}), why="bytes"),
        bad("a pax size that is none", entry(b"f", pax={b"size": b"1e3"}), why="corrupt"),
        bad("a pax record that ends too late", entry(b"h", b"x", b"99 path=x\n"), file, why="corrupt"),
        bad("a pax record without an end", entry(b"h", b"x", b"10 path=xy"), file, why="corrupt"),
        bad("a pax record of no length", entry(b"h", b"x", b"0 path=x\n"), file, why="corrupt"),
        bad("a pax record without a key", entry(b"h", b"x", record(b"", b"x")), file, why="corrupt"),
        bad("a pax record of letters", entry(b"h", b"x", b"hello"), file, why="corrupt"),
        bad("a pax header of 1 GiB", entry(b"h", b"x", size=1 << 30), why="headers"),
        bad("a long name of 1 MiB", entry(b"h", b"L", size=1 << 20), why="headers"),
        bad("a negative pax header", entry(b"h", b"x", size=b"\xff" * 12), why="headers"),
        bad("ten extended headers in a row", *[extended({b"a": b"b"})] * 10, file, why="headers"),
        bad("an extended header of nothing", extended({b"path": b"x"}), why="truncated"),
        bad("a path for all", extended({b"path": b"x"}, b"g"), file, why="unsupported"),
        bad("a size for all", extended({b"size": b"0"}, b"g"), file, why="unsupported"),
        bad("a time that is none", entry(b"f", pax={b"mtime": b"tomorrow"}), why="corrupt"),
        fine("a time after the sun", entry(b"f", pax={b"mtime": b"9" * 19}), tree={"f": "-"}),
        fine("a time before all time", entry(b"f", pax={b"mtime": b"-" + b"9" * 19}), tree={"f": "-"}),
        Case("a zero block in the middle", file + bytes(512) + file + END, "corrupt"),
        fine("data behind a folder's size", folder(b"d", size=512), file, tree={"d": "d", "f": "-"}),
        fine("an archive behind the end mark", file, END, entry(b"hidden", data=b"x"), tree={"f": "-"}),
    ]


def _sparse(out: bytes) -> list[Case]:
    up = climb(out)

    def gnu(size: int, *pieces: tuple[int, int], data: bytes = b"") -> bytes:
        text = b"".join(b"%011o\0%011o\0" % piece for piece in pieces)
        return entry(b"f", b"S", data, magic=b"ustar  \0", at386=text, at483=number(size, 12))

    def pax(size: bytes, text: bytes) -> bytes:
        keys = {b"GNU.sparse.size": size, b"GNU.sparse.map": text, b"GNU.sparse.numblocks": b"1"}
        return entry(b"f", data=b"x" * 512, pax=keys)

    return [
        bad("sparse: a piece beyond the end", gnu(100, (512, 512), data=b"x" * 512), why="corrupt"),
        bad("sparse: pieces that overlap", gnu(900, (0, 300), (200, 212), data=b"x" * 512), why="corrupt"),
        bad("sparse: less stored than said", gnu(1000, (0, 900), data=b"x" * 512), why="corrupt"),
        bad("sparse: 1 EiB of holes", gnu(1 << 60), why="bytes"),
        bad("sparse by pax: an odd map", pax(b"1000", b"0,512,600"), why="corrupt"),
        bad("sparse by pax: 8 EiB of holes", pax(b"9223372036854775807", b"0,512"), why="bytes"),
        bad("sparse by pax: a map of letters", pax(b"1000", b"a,b"), why="corrupt"),
        bad(
            "sparse 1.0: a billion pieces",
            entry(
                b"f", data=b"1000000000\n".ljust(512, b"0"),
                pax={b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"9"},
            ),
            why="headers",
        ),
        bad(
            "sparse 1.0: a map without an end",
            entry(
                b"f", data=b"3" * 4096,
                pax={b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"9"},
            ),
            why="corrupt",
        ),
        bad(
            "sparse 1.0: another name out", entry(
                b"f", data=b"0\n".ljust(512, b"\0"),
                pax={
                    b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"0",
                    b"GNU.sparse.name": up + b"/pwned",
                },
            ),
            why="name",
        ),
    ]  # fmt: skip


def _packing(_: bytes) -> list[Case]:
    plain = archive(entry(b"f", data=b"hello"))
    zipped, zstd = gzip.compress(plain), zstandard.ZstdCompressor(write_checksum=True).compress(plain)
    broken = bytearray(zipped)
    broken[-6] ^= 1
    spoilt = bytearray(zstd)
    spoilt[-1] ^= 1
    wide = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=1)
    ).compressobj()
    window = wide.compress(plain) + wide.flush()
    tree = {"f": "-"}
    gz, zs = Compression.GZIP, Compression.ZSTD
    skippable = zstd + struct.pack("<II", 0x184D2A50, 400) + b"abcd"
    return [
        Case("gzip: cut", zipped[:-9], "truncated", gz),
        Case("gzip: a wrong sum", bytes(broken), "corrupt", gz),
        Case("gzip: garbage behind", zipped + b"garbage", "corrupt", gz),
        Case("gzip: zeros behind", zipped + bytes(100), tree, gz),
        Case("gzip: a second archive behind", zipped + gzip.compress(plain), tree, gz),
        Case("gzip: 100,000 empty members", gzip.compress(b"") * 100_000 + zipped, tree, gz),
        Case("gzip: that is none", plain, "corrupt", gz),
        Case("plain: that is gzip", zipped * 20, "corrupt"),
        Case("zstd: cut", zstd[:-5], "truncated", zs),
        Case("zstd: a wrong sum", bytes(spoilt), "corrupt", zs),
        Case("zstd: garbage behind", zstd + b"garbage", "corrupt", zs),
        Case("zstd: a skippable frame behind", skippable + bytes(396), tree, zs),
        Case("zstd: a skippable frame cut", skippable, "truncated", zs),
        Case("zstd: a window of 128 MiB", window, "corrupt", zs),
        Case("another digest", plain, "digest", diff_id="sha256:" + "0" * 64),
    ]


def cases(out: bytes) -> list[Case]:
    """All of them, but for the bombs, aimed at the canary at ``out``."""
    groups = (_paths, _symlinks, _hard_links, _special, _whiteouts, _xattrs, _headers, _sparse, _packing)
    return [case for group in groups for case in group(out)]
