"""What the default template is made of: rules that hold on every host, and a host made up to break them."""

from __future__ import annotations

import os
import posixpath
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from elf_maker import make_elf

from nsbox.model.errors import HostProblem
from nsbox.oci import embedded, ldcache, recipe
from nsbox.oci.elf import Linker
from nsbox.oci.hostfiles import HostFiles, RefusedError
from nsbox.oci.manifest import Entry, Kind, Manifest
from nsbox.oci.recipe import Matcher, Tree, decode, recipe_bytes


@pytest.fixture(scope="module")
def host() -> Manifest:
    try:
        return embedded.plan()
    except HostProblem as problem:
        pytest.skip(f"this host has no default template: {problem}")


def inside(entries: dict[str, Entry], path: str) -> str | None:
    """Where ``path`` ends in the layer, followed as the kernel would; None where it leads nowhere."""
    parts, real = path.strip("/").split("/"), ""
    for _ in range(400):
        if not parts:
            return real
        part = parts.pop(0)
        if part in ("", "."):
            continue
        if part == "..":
            real = posixpath.dirname(real)
            continue
        here = f"{real}/{part}".lstrip("/")
        entry = entries.get(here)
        if entry is None:
            return None
        if entry.kind is Kind.SYMLINK:
            parts = entry.target.split("/") + parts
            real = "" if entry.target.startswith("/") else real
        else:
            real = here
    return None


def by_dest(manifest: Manifest) -> dict[str, Entry]:
    return {entry.dest: entry for entry in manifest.entries}


# rules that hold on every host


def test_entries_are_unique_and_parents_come_first(host: Manifest) -> None:
    seen = {""}
    for entry in host.entries:
        assert entry.dest not in seen
        assert posixpath.dirname(entry.dest) in seen
        parts = entry.dest.split("/")
        assert not {"", ".", ".."} & set(parts)
        if entry.kind is Kind.DIRECTORY:
            seen.add(entry.dest)


#: Links that lead to what only a running sandbox has.
DANGLING = {"etc/mtab"}


def test_every_link_leads_to_something_in_the_layer(host: Manifest) -> None:
    entries = by_dest(host)
    links = [entry for entry in host.entries if entry.kind is Kind.SYMLINK and entry.dest not in DANGLING]
    assert len(links) > 50
    assert [entry.dest for entry in links if inside(entries, entry.dest) is None] == []


def test_every_elf_file_finds_its_libraries_in_the_layer(host: Manifest) -> None:
    entries = by_dest(host)
    rows = ldcache.parse(entries["etc/ld.so.cache"].content) if "etc/ld.so.cache" in entries else ()
    cache: dict[str, tuple[str, ...]] = {}
    for row in rows:
        assert inside(entries, row.path), f"the cache names {row.path}"
        cache[row.name] = (*cache.get(row.name, ()), row.path)
    folders = tuple(f"/usr/lib/{name}" for name in os.listdir("/usr/lib") if "-linux-gnu" in name)
    linker = Linker("/", cache, (*folders, "/usr/lib", "/usr/lib64"))
    count = 0
    for entry in host.entries:
        if entry.kind is Kind.FILE and linker.elf(entry.source):
            count += 1
            closure = linker.closure(entry.source)
            assert closure.missing == (), entry.dest
            assert [path for path in closure.paths if inside(entries, path) is None] == [], entry.dest
    assert count > 80


def test_nothing_private_goes_in(host: Manifest) -> None:
    for entry in host.entries:
        if entry.kind is Kind.FILE:
            status = os.lstat(entry.source)
            assert status.st_mode & 0o004, entry.source
            assert os.path.realpath(entry.source) == entry.source
            assert not entry.source.startswith(("/root", "/home", "/var", "/run", "/opt", "/srv", "/tmp"))
            assert not entry.source.startswith(("/etc/ssl/private", "/etc/ssh", "/etc/shadow", "/etc/passwd"))
        elif entry.dest.startswith(("root/", "home/user/", "var/lib/")):
            pytest.fail(f"{entry.dest} is not ours to fill")
    accounts = by_dest(host)["etc/passwd"].content.decode()
    assert "user:x:1000:1000:" in accounts
    fields = [line.split(":") for line in by_dest(host)["etc/shadow"].content.decode().splitlines()]
    assert {row[1] for row in fields} == {"*"}
    assert {row[0] for row in fields} == {line.split(":")[0] for line in accounts.splitlines()}


def test_modes(host: Manifest) -> None:
    entries = by_dest(host)
    assert entries["tmp"].mode == entries["var/tmp"].mode == 0o1777
    assert entries["root"].mode == 0o700
    assert entries["etc/shadow"].mode == 0o600
    home = entries["home/user"]
    assert (home.uid, home.gid) == (1000, 1000)
    for entry in host.entries:
        assert entry.mode & ~0o1777 == 0
        if entry.kind is Kind.FILE:
            assert entry.mode & 0o022 == 0, "nobody but the owner writes"


def test_what_everybody_expects_is_there(host: Manifest) -> None:
    entries = by_dest(host)
    for path in ("bin/sh", "usr/bin/env", "usr/bin/python3", "bin/cat", "app", "proc", "sys", "dev", "tmp"):
        assert inside(entries, path) is not None, path
    assert inside(entries, "usr/bin/python") or inside(entries, "usr/local/bin/python")
    assert not any(entry.dest.endswith("EXTERNALLY-MANAGED") for entry in host.entries)
    assert host.config.shell == ("/bin/sh", "-c")


def test_the_plan_is_stable_and_quick(host: Manifest) -> None:
    start = time.perf_counter()
    again = embedded.plan()
    spent = time.perf_counter() - start
    assert again.digest == host.digest
    assert spent < 1.5


def test_the_fingerprint_is_cheap() -> None:
    def once() -> float:
        start = time.perf_counter()
        embedded.fingerprint()
        return time.perf_counter() - start

    assert min(once() for _ in range(5)) < 0.010


# a host made up


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """A host with all that is required, merged /usr, and Python without its library."""
    root = tmp_path / "host"
    for folder in ("usr/bin", "usr/lib", "etc/alternatives", "home/me", "root", "usr/share/python-wheels"):
        (root / folder).mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    (root / "lib").symlink_to("usr/lib")
    for name in decode(recipe_bytes()).programs.required:
        program(root, f"usr/bin/{name}", make_elf(["libc.so.6"]))
    (root / "usr/bin/python3").rename(root / "usr/bin/python3.11")
    (root / "usr/bin/python3").symlink_to("python3.11")
    program(root, "usr/lib/libc.so.6", make_elf())
    library = root / "usr/lib/python3.11"
    (library / "__pycache__").mkdir(parents=True)
    (library / "os.py").write_text("x = 1\n")
    return root


def program(root: Path, path: str, data: bytes, mode: int = 0o755) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    file.chmod(mode)
    return file


def skipped(manifest: Manifest) -> dict[str, str]:
    return {item.path: item.reason for item in manifest.skipped}


def test_the_made_up_host_has_a_template(fake: Path) -> None:
    manifest = embedded.plan(str(fake))
    entries = by_dest(manifest)
    assert entries["bin"].target == "usr/bin"
    assert inside(entries, "bin/python3") == "usr/bin/python3.11"
    assert entries["usr/bin/ls"].source == f"{fake}/usr/bin/ls"
    assert manifest.skipped == ()


@pytest.mark.parametrize("gone", ["usr/bin/grep", "usr/lib/libc.so.6", "usr/lib/python3.11"])
def test_what_is_required_and_missing_is_said_with_a_remedy(fake: Path, gone: str) -> None:
    (fake / gone).rename(fake / "away")
    with pytest.raises(HostProblem) as caught:
        embedded.plan(str(fake))
    assert caught.value.remedy


def test_an_optional_program_without_its_library_is_left_out_and_reported(fake: Path) -> None:
    program(fake, "usr/bin/curl", make_elf(["libcurl.so.4"]))
    manifest = embedded.plan(str(fake))
    assert "usr/bin/curl" not in by_dest(manifest)
    assert "libcurl.so.4" in skipped(manifest)["/usr/bin/curl"]


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o711])
def test_what_not_everybody_may_read_stays_out(fake: Path, mode: int) -> None:
    program(fake, "usr/bin/jq", make_elf(), mode)
    manifest = embedded.plan(str(fake))
    assert "usr/bin/jq" not in by_dest(manifest)
    assert "/usr/bin/jq" in skipped(manifest)


@pytest.mark.parametrize(
    "target", ["/home/me/tool", "../../root/tool", "/etc/alternatives/tool", "/opt/tool", "/etc/tool"]
)
def test_links_out_of_installed_software_are_not_followed_into_the_layer(fake: Path, target: str) -> None:
    for path in ("home/me/tool", "root/tool", "opt/tool", "etc/tool"):
        program(fake, path, make_elf())
    (fake / "etc/alternatives/tool").symlink_to("/home/me/tool")
    (fake / "usr/bin/jq").symlink_to(target)
    manifest = embedded.plan(str(fake))
    assert "usr/bin/jq" not in by_dest(manifest)
    assert not any("tool" in entry.dest or "home/me" in entry.dest for entry in manifest.entries)
    assert "/usr/bin/jq" in skipped(manifest)


def test_a_link_to_a_private_folder_brings_not_even_its_name(fake: Path) -> None:
    (fake / "usr/lib/python3.11/mine").symlink_to("/home/me")
    manifest = embedded.plan(str(fake))
    assert not any("mine" in entry.dest or entry.dest == "home/me" for entry in manifest.entries)


def test_chains_of_alternatives_are_kept(fake: Path) -> None:
    program(fake, "usr/bin/mawk", make_elf())
    (fake / "etc/alternatives/awk").symlink_to("/usr/bin/mawk")
    (fake / "usr/bin/awk").symlink_to("/etc/alternatives/awk")
    entries = by_dest(embedded.plan(str(fake)))
    assert entries["usr/bin/awk"].target == "/etc/alternatives/awk"
    assert inside(entries, "usr/bin/awk") == "usr/bin/mawk"


def test_circles_of_links_end(fake: Path) -> None:
    (fake / "usr/bin/awk").symlink_to("gawk")
    (fake / "usr/bin/gawk").symlink_to("awk")
    assert "too many links" in skipped(embedded.plan(str(fake)))["/usr/bin/awk"]


def test_a_private_key_among_the_certificates_stays_out(fake: Path) -> None:
    program(fake, "etc/ssl/certs/ca-certificates.crt", b"-----BEGIN CERTIFICATE-----\n", 0o644)
    program(fake, "etc/ssl/certs/mine.pem", b"-----BEGIN RSA PRIVATE KEY-----\n", 0o644)
    (fake / "etc/ssl/certs/0123abcd.0").symlink_to("mine.pem")
    manifest = embedded.plan(str(fake))
    entries = by_dest(manifest)
    assert "etc/ssl/certs/ca-certificates.crt" in entries
    assert not {"etc/ssl/certs/mine.pem", "etc/ssl/certs/0123abcd.0"} & entries.keys()
    assert "holds a private key" in skipped(manifest)["/etc/ssl/certs/0123abcd.0"]


def test_scripts_bring_their_interpreter_or_stay_out(fake: Path) -> None:
    program(fake, "usr/bin/npm", b"#!/usr/bin/env node\n")
    program(fake, "usr/bin/pip", b"#!/usr/bin/python3\n")
    manifest = embedded.plan(str(fake))
    assert "usr/bin/npm" not in by_dest(manifest)
    assert "node" in skipped(manifest)["/usr/bin/npm"]
    assert "usr/bin/pip" in by_dest(manifest)


def test_set_id_bits_are_dropped(fake: Path) -> None:
    program(fake, "usr/bin/jq", make_elf(), 0o6755)
    assert by_dest(embedded.plan(str(fake)))["usr/bin/jq"].mode == 0o755


def test_hard_links_become_links(fake: Path) -> None:
    program(fake, "usr/bin/bash", make_elf())
    (fake / "usr/bin/rbash").hardlink_to(fake / "usr/bin/bash")
    entries = by_dest(embedded.plan(str(fake)))
    assert sorted(entries[f"usr/bin/{name}"].kind for name in ("bash", "rbash")) == [Kind.FILE, Kind.SYMLINK]
    assert inside(entries, "usr/bin/rbash") == "usr/bin/bash"


def test_bytecode_is_taken_only_while_python_would_use_it(fake: Path) -> None:
    source = fake / "usr/lib/python3.11/os.py"
    compiled = fake / "usr/lib/python3.11/__pycache__/os.cpython-311.pyc"
    status = source.stat()

    def planned() -> bool:
        return "usr/lib/python3.11/__pycache__/os.cpython-311.pyc" in by_dest(embedded.plan(str(fake)))

    compiled.write_bytes(b"magi" + struct.pack("<III", 0, int(status.st_mtime), status.st_size) + b"code")
    assert planned()
    os.utime(source, (1, 1))
    assert not planned()
    compiled.write_bytes(b"short")
    assert not planned()


def test_pip_comes_from_a_wheel_where_there_is_no_other(fake: Path) -> None:
    (fake / "usr/share/python-wheels/pip-23.0.1-py3-none-any.whl").write_bytes(b"PK")
    entries = by_dest(embedded.plan(str(fake)))
    script = entries["usr/local/bin/pip"]
    assert script.mode == 0o755
    assert b"/usr/bin/python3.11 /usr/share/python-wheels/pip-23.0.1-py3-none-any.whl/pip" in script.content
    assert entries["usr/local/bin/python"].target == "/usr/bin/python3.11"


CHANGES: dict[str, Callable[[Path], object]] = {
    "program upgraded": lambda root: (root / "usr/bin/python3.11").write_bytes(
        make_elf(["libc.so.6"]) + b"1"
    ),
    "program touched": lambda root: os.utime(root / "usr/bin/ls", (5, 5)),
    "program added": lambda root: program(root, "usr/bin/git", make_elf()),
    "program removed": lambda root: (root / "usr/bin/ls").unlink(),
    "libraries changed": lambda root: program(root, "etc/ld.so.cache", b"new"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_fingerprint_changes_with_the_host(fake: Path, change: str) -> None:
    before = embedded.fingerprint(str(fake))
    assert embedded.fingerprint(str(fake)) == before
    CHANGES[change](fake)
    assert embedded.fingerprint(str(fake)) != before


def test_the_digest_changes_with_any_file(fake: Path) -> None:
    before = embedded.plan(str(fake)).digest
    os.utime(fake / "usr/lib/python3.11/os.py", (5, 5))
    assert embedded.plan(str(fake)).digest != before


def test_reading_stays_below_the_root(fake: Path) -> None:
    (fake / "usr/bin/jq").symlink_to("/../../../../../../etc/hostname")
    with pytest.raises(RefusedError):
        HostFiles(str(fake)).find("/usr/bin/jq")


def test_patterns() -> None:
    matcher = Matcher(Tree("/t", keep=("/a", "/b-*"), skip=("/a/x", "/*/tests", "*.exe")))
    wanted = ["/a", "/b-1", "/a/y", "/b-1/x", "/a/deep/tests"]
    unwanted = ["/c", "/a/x", "/a/tests", "/b-1/z.exe", "/a/deep/z.exe"]
    assert [path for path in wanted + unwanted if matcher.wants(path, posixpath.basename(path))] == wanted


@pytest.mark.parametrize("place", ["nsbox/_images", "images"])
def test_the_recipe_is_found_in_a_wheel_and_in_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "default.toml").write_bytes(b"here")
    monkeypatch.setattr(recipe, "__file__", str(tmp_path / "nsbox/oci/recipe.py"))
    assert recipe_bytes() == b"here"


def test_an_installation_without_the_recipe_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "__file__", str(tmp_path / "nsbox/oci/recipe.py"))
    with pytest.raises(HostProblem, match="missing from this installation"):
        recipe_bytes()
