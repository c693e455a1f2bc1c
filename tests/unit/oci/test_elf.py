"""The ELF reader and the loader's search: against ldd, on a host made up for the test, and on rubbish."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from elf_maker import AARCH64, I386, make_elf
from hypothesis import given
from hypothesis import strategies as st

from nsbox.oci import ldcache
from nsbox.oci.elf import Elf, ElfError, Linker, parse, read


def parsed(data: bytes) -> Elf:
    return parse(lambda offset, size: data[offset : offset + size])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [32, 64])
def test_all_fields_are_read(bits: int, order: str) -> None:
    data = make_elf(
        ["libone.so.1", "libtwo.so"],
        rpath="/a:/b",
        runpath="$ORIGIN/../lib",
        interpreter="/lib/ld.so",
        bits=bits,
        order=order,
    )
    elf = parsed(data)
    assert elf.needed == ("libone.so.1", "libtwo.so")
    assert elf.rpath == ("/a", "/b")
    assert elf.runpath == ("$ORIGIN/../lib",)
    assert elf.interpreter == "/lib/ld.so"
    assert elf.bits == bits


SAMPLE = make_elf(["libone.so.1"], rpath="/a", runpath="/b", interpreter="/lib/ld.so")


@given(st.integers(0, len(SAMPLE)))
def test_a_file_cut_short_is_an_error_of_its_own_or_still_whole(length: int) -> None:
    try:
        parsed(SAMPLE[:length])
    except ElfError:
        return
    assert length >= len(SAMPLE) - 1  # only the interpreter's final NUL may be missing, or nothing


@given(st.lists(st.tuples(st.integers(0, len(SAMPLE) - 1), st.integers(0, 255)), min_size=1, max_size=12))
def test_damage_never_gives_another_exception(damage: list[tuple[int, int]]) -> None:
    data = bytearray(SAMPLE)
    for place, value in damage:
        data[place] = value
    try:
        elf = parsed(bytes(data))
    except ElfError:
        return
    assert all(0 < len(name) <= 4096 for name in elf.needed)


@given(st.binary(max_size=400))
def test_rubbish_behind_the_magic_never_gives_another_exception(rubbish: bytes) -> None:
    try:
        parsed(b"\x7fELF" + rubbish)
    except ElfError:
        pass


@given(damage=st.lists(st.tuples(st.integers(0, len(SAMPLE) - 1), st.integers(0, 255)), max_size=8))
def test_damaged_files_on_disk(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, int]]
) -> None:
    """Offsets beyond what pread takes are reached on real files only."""
    data = bytearray(SAMPLE + bytes(20_000))
    for place, value in damage:
        data[place] = value
    path = tmp_path_factory.mktemp("elf") / "file"
    path.write_bytes(data)
    try:
        read(str(path))
    except ElfError:
        pass


def test_what_is_no_elf_file_is_none(tmp_path: Path) -> None:
    (tmp_path / "script").write_bytes(b"#!/bin/sh\n")
    assert read(str(tmp_path / "script")) is None


# the loader's search, on a host made up


def put(root: Path, path: str, data: bytes) -> None:
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


def test_runpath_with_origin_is_relative_to_the_real_file(tmp_path: Path) -> None:
    put(tmp_path, "/opt/tool/bin/tool", make_elf(["libtool.so"], runpath="$ORIGIN/../lib"))
    put(tmp_path, "/opt/tool/lib/libtool.so", make_elf())
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/tool").symlink_to("../../opt/tool/bin/tool")
    closure = Linker(str(tmp_path), {}, ()).closure("/usr/bin/tool")
    assert closure.paths == ("/opt/tool/lib/libtool.so",)
    assert closure.missing == ()


def test_rpath_is_inherited_and_runpath_is_not(tmp_path: Path) -> None:
    put(tmp_path, "/bin/old", make_elf(["liba.so"], rpath="/x"))
    put(tmp_path, "/bin/new", make_elf(["liba.so"], runpath="/x"))
    put(tmp_path, "/x/liba.so", make_elf(["libb.so"]))
    put(tmp_path, "/x/libb.so", make_elf())
    linker = Linker(str(tmp_path), {}, ("/lib",))
    assert linker.closure("/bin/old").paths == ("/x/liba.so", "/x/libb.so")
    new = linker.closure("/bin/new")
    assert [(lost.library, lost.wanted_by) for lost in new.missing] == [("libb.so", "/x/liba.so")]


def test_runpath_switches_the_objects_rpath_off(tmp_path: Path) -> None:
    put(tmp_path, "/bin/tool", make_elf(["liba.so"], rpath="/x", runpath="/y"))
    put(tmp_path, "/x/liba.so", make_elf())
    put(tmp_path, "/y/liba.so", make_elf())
    assert Linker(str(tmp_path), {}, ()).closure("/bin/tool").paths == ("/y/liba.so",)


def test_runpath_switches_the_loaders_rpath_off_too(tmp_path: Path) -> None:
    put(tmp_path, "/bin/tool", make_elf(["liba.so"], rpath="/x"))
    put(tmp_path, "/x/liba.so", make_elf(["libb.so"], runpath="/y"))
    put(tmp_path, "/x/libb.so", make_elf())
    put(tmp_path, "/y/libb.so", make_elf())
    assert Linker(str(tmp_path), {}, ()).closure("/bin/tool").paths == ("/x/liba.so", "/y/libb.so")


@pytest.mark.parametrize("foreign", [{"machine": AARCH64}, {"machine": I386, "bits": 32}])
def test_libraries_of_another_architecture_are_passed_over(tmp_path: Path, foreign: dict[str, int]) -> None:
    put(tmp_path, "/bin/tool", make_elf(["liba.so"]))
    put(tmp_path, "/first/liba.so", make_elf(**foreign))
    put(tmp_path, "/second/liba.so", make_elf())
    linker = Linker(str(tmp_path), {"liba.so": ("/first/liba.so", "/second/liba.so")}, ())
    assert linker.closure("/bin/tool").paths == ("/second/liba.so",)


def test_the_cache_comes_before_the_default_folders_and_circles_end(tmp_path: Path) -> None:
    put(tmp_path, "/bin/tool", make_elf(["liba.so"], interpreter="/lib/ld.so"))
    put(tmp_path, "/lib/ld.so", make_elf())
    put(tmp_path, "/lib/liba.so", make_elf())
    put(tmp_path, "/odd/liba.so", make_elf(["libb.so", "ld.so"]))
    put(tmp_path, "/lib/libb.so", make_elf(["liba.so"]))
    closure = Linker(str(tmp_path), {"liba.so": ("/odd/liba.so",)}, ("/lib",)).closure("/bin/tool")
    assert closure.paths == ("/lib/ld.so", "/odd/liba.so", "/lib/libb.so")


def test_a_missing_interpreter_is_a_missing_need(tmp_path: Path) -> None:
    put(tmp_path, "/bin/tool", make_elf(interpreter="/lib/ld-musl.so.1"))
    assert Linker(str(tmp_path), {}, ()).closure("/bin/tool").missing[0].library == "/lib/ld-musl.so.1"


# the real host


def host_linker() -> Linker:
    cache: dict[str, tuple[str, ...]] = {}
    for row in ldcache.parse(Path("/etc/ld.so.cache").read_bytes()):
        cache[row.name] = (*cache.get(row.name, ()), row.path)
    return Linker("/", cache, ("/lib", "/usr/lib"))


@pytest.mark.parametrize(
    "program", ["/bin/ls", "/usr/bin/python3", "/usr/bin/node", "/usr/bin/git", "/usr/bin/curl"]
)
def test_the_closure_is_what_ldd_says(program: str) -> None:
    if not os.path.exists(program) or not shutil.which("ldd"):
        pytest.skip(f"no {program} or no ldd here")
    shown = subprocess.run(
        ["ldd", program], capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"}
    )
    said = set(re.findall(r"(?:=> )?(/\S+) \(0x", shown.stdout))
    closure = host_linker().closure(program)
    assert closure.missing == ()
    assert {os.path.realpath(path) for path in closure.paths} == {os.path.realpath(path) for path in said}
    assert len(closure.paths) >= 2


def test_the_cache_reads_as_ldconfig_prints_it() -> None:
    ldconfig = shutil.which("ldconfig", path="/sbin:/usr/sbin")
    if ldconfig is None or not os.path.exists("/etc/ld.so.cache"):
        pytest.skip("no ldconfig or no cache here")
    shown = subprocess.run([ldconfig, "-p"], capture_output=True, text=True, check=True).stdout
    if "hwcap" in shown:
        pytest.skip("the cache has rows for particular processors, which are left out on purpose")
    said = re.findall(r"^\t(\S+) \(.*\) => (\S+)$", shown, re.MULTILINE)
    rows = ldcache.parse(Path("/etc/ld.so.cache").read_bytes())
    assert [(row.name, row.path) for row in rows] == said


rows = st.builds(
    ldcache.Row,
    st.integers(0, 0xFFFF),
    st.text("abc.-+0", min_size=1),
    st.text("abc/0", min_size=1).map(lambda text: "/" + text),
)


@given(st.lists(rows, max_size=20))
def test_a_cache_that_was_written_reads_the_same(wanted: list[ldcache.Row]) -> None:
    assert ldcache.parse(ldcache.render(wanted)) == tuple(wanted)


@given(st.binary(max_size=200), st.integers(0, 300))
def test_a_damaged_cache_gives_rows_or_none(rubbish: bytes, keep: int) -> None:
    whole = ldcache.render([ldcache.Row(3, "liba.so", "/lib/liba.so")] * 3)
    for row in ldcache.parse(whole[:keep] + rubbish):
        assert row.path.startswith("/")
