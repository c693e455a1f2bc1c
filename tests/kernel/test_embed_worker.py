"""The default template, really made and really used: in namespaces like those a sandbox gets.

OUTER is nsbox's outer user namespace (0 is this user, 1.. are subordinate ids); a sandbox's own, INNER, lies
within (its 0 is outer 1). Both are made here by a few lines, so that these tests need nothing but the worker.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nsbox.model.errors import HostProblem
from nsbox.oci import embed_worker, embedded
from nsbox.oci.manifest import Manifest

pytestmark = pytest.mark.namespaces

REPOSITORY = Path(embedded.__file__).resolve().parents[2]

#: Runs a command as uid 0 of a new outer namespace.
OUTER = """
import os, subprocess, sys
from nsbox.kernel import libc
ready, mapped = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    libc.unshare(0x10000000)
    os.write(ready[1], b"1"); os.read(mapped[0], 1)
    os.setresgid(0, 0, 0); os.setresuid(0, 0, 0)
    os.execvp(sys.argv[1], sys.argv[1:])
os.read(ready[0], 1)
me, name = os.getuid(), __import__("pwd").getpwuid(os.getuid()).pw_name
if me == 0:
    for kind in "uid", "gid":
        open(f"/proc/{child}/{kind}_map", "w").write("0 0 1\\n1 100000 65536\\n")
else:
    for kind, own in ("uid", me), ("gid", os.getgid()):
        first, count = next(l for l in open(f"/etc/sub{kind}") if l.startswith(name + ":")).split(":")[1:]
        numbers = [child, 0, own, 1, 1, first, count.strip()]
        subprocess.run([f"new{kind}map", *map(str, numbers)], check=True)
os.write(mapped[1], b"1")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

#: In the outer namespace: runs a command in the layer as a sandbox would: ids shifted by one, its own /proc.
INNER = """
import os, sys
from nsbox.kernel import libc
layer, scratch, user = sys.argv[1].encode(), sys.argv[2], int(sys.argv[3])
libc.unshare(0x00020000)
libc.mount(None, b"/", None, 0x4000 | 0x40000)
for part in "upper", "work", "root":
    os.makedirs(f"{scratch}/{part}", exist_ok=True)
    os.chown(f"{scratch}/{part}", 1, 1)
os.chmod(f"{scratch}/upper", 0o755)
merged = f"{scratch}/root".encode()
libc.mount(b"overlay", merged, b"overlay", 0,
    b"lowerdir=" + layer + f",upperdir={scratch}/upper,workdir={scratch}/work,userxattr".encode())
for name in b"null", b"zero", b"urandom":
    os.close(os.open(merged + b"/dev/" + name, os.O_CREAT | os.O_WRONLY, 0o666))
    libc.mount(b"/dev/" + name, merged + b"/dev/" + name, None, 0x1000)
os.chdir(merged)  # kept by the child, which may not pass the folders above it
ready, mapped = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    libc.unshare(0x10000000 | 0x20000000 | 0x40000000)
    os.write(ready[1], b"1"); os.read(mapped[0], 1)
    os.setgroups([]); os.setresgid(0, 0, 0); os.setresuid(0, 0, 0)
    inside = os.fork()
    if inside == 0:
        os.chroot("."); os.chdir("/")
        libc.unshare(0x00020000)
        libc.mount(b"proc", b"/proc", b"proc", 0)
        os.setresgid(user, user, user); os.setresuid(user, user, user)
        os.execve("/bin/sh", ["sh", "-c", sys.argv[4]], dict(v.split("=", 1) for v in sys.argv[5:]))
    os._exit(os.waitstatus_to_exitcode(os.waitpid(inside, 0)[1]) & 255)
os.read(ready[0], 1)
for kind in "uid", "gid":
    open(f"/proc/{child}/{kind}_map", "w").write("0 1 65536\\n")
os.write(mapped[1], b"1")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def in_outer(*command: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", OUTER, *command], input=data, capture_output=True, check=False, cwd=REPOSITORY
    )


def worker(dest: Path, manifest: bytes, *extra: str) -> subprocess.CompletedProcess[bytes]:
    # Not -I here: a checkout is importable by its folder only.
    return in_outer(sys.executable, "-m", "nsbox.oci.embed_worker", str(dest), *extra, data=manifest)


@pytest.fixture(scope="module")
def workspace() -> Iterator[Path]:
    """Outside tmp_path: what the outer namespace's ids own, only they can remove."""
    if in_outer("true").returncode != 0:
        pytest.skip("no user namespace with subordinate ids here")
    folder = Path(tempfile.mkdtemp(prefix="nsbox-embedded-"))
    yield folder
    in_outer("rm", "-rf", str(folder))


class Layer:
    def __init__(self, path: Path, scratch: Path, manifest: Manifest, report: dict[str, Any]) -> None:
        self.path, self.scratch, self.manifest, self.report = path, scratch, manifest, report

    def has(self, *programs: str) -> None:
        for name in programs:
            if not any(os.path.lexists(self.path / folder / name) for folder in ("usr/bin", "usr/local/bin")):
                pytest.skip(f"this host has no {name}")

    def run(self, command: str, user: int = 0) -> str:
        env = [f"{name}={value}" for name, value in self.manifest.config.env.items()]
        scratch = tempfile.mkdtemp(dir=self.scratch)
        done = in_outer(sys.executable, "-c", INNER, str(self.path), scratch, str(user), command, *env)
        assert done.returncode == 0, done.stderr.decode() + done.stdout.decode()
        return done.stdout.decode()


@pytest.fixture(scope="module")
def layer(workspace: Path) -> Layer:
    try:
        manifest = embedded.plan()
    except HostProblem as problem:
        pytest.skip(f"this host has no default template: {problem}")
    done = worker(workspace / "layer", manifest.encode())
    assert done.returncode == 0, done.stderr.decode()
    return Layer(workspace / "layer", workspace, manifest, json.loads(done.stdout))


def test_the_report_and_the_tree_agree_with_the_manifest(layer: Layer) -> None:
    assert layer.report["skipped"] == layer.report["changed"] == []
    assert layer.report["entries"] == len(layer.manifest.entries)
    assert layer.report["bytes"] == layer.manifest.size
    assert not layer.path.with_name("layer.partial").exists()


def test_owners_modes_and_times_are_exact(layer: Layer) -> None:
    """Seen from the outer namespace, for outside it an ordinary user cannot even look into /root."""
    look = """
import json, os, sys
top, found = sys.argv[1], {}
for folder, folders, files in os.walk(top):
    for name in folders + files:
        path = os.path.join(folder, name)
        s = os.lstat(path)
        found[os.path.relpath(path, top)] = [s.st_mode, s.st_uid, s.st_gid, s.st_mtime_ns]
s = os.lstat(top)
print(json.dumps([found, [s.st_mode, s.st_uid, s.st_gid]]))
"""
    found, top = json.loads(in_outer(sys.executable, "-c", look, str(layer.path)).stdout)
    assert top == [stat.S_IFDIR | 0o755, 1, 1]
    assert found.keys() == {entry.dest for entry in layer.manifest.entries}
    for entry in layer.manifest.entries:
        mode, uid, gid, mtime = found[entry.dest]
        assert (uid, gid) == (entry.uid + 1, entry.gid + 1), entry.dest
        assert stat.S_IMODE(mode) == entry.mode, entry.dest
        assert mtime == entry.mtime_ns, entry.dest


def test_the_shell_and_the_core_tools(layer: Layer) -> None:
    out = layer.run(
        "echo a b | sed s/a/c/ | tr b d; ls /; cat /etc/hostname; stat -c %U:%a /root /tmp /etc/shadow"
    )
    assert out.startswith("c d\n")
    assert "sandbox\n" in out
    assert out.endswith("root:700\nroot:1777\nroot:600\n")


def test_python_with_its_whole_library(layer: Layer) -> None:
    modules = (
        "ssl, sqlite3, ctypes, json, zoneinfo, hashlib, lzma, bz2, zlib, curses, readline, decimal, asyncio"
    )
    program = (
        f"import {modules}, multiprocessing, unittest, xml.etree.ElementTree, encodings.idna; "
        "from ctypes import util; print(util.find_library('c')); "
        "print(zoneinfo.ZoneInfo('Europe/Berlin')); "
        "curses.setupterm('xterm-256color', 1); import sys; print(sys.getfilesystemencoding())"
    )
    out = layer.run(f'python3 -c "{program}"; python -c "print(6*7)"')
    assert out.splitlines()[0] == "libc.so.6"
    assert "Europe/Berlin" in out
    assert out.splitlines()[-1] == "42"
    assert "utf-8" in out


def test_programs_trust_the_hosts_certificates(layer: Layer) -> None:
    """OpenSSL reads its default file at once and its default folder by the hash of a name, when asked."""
    if not (layer.path / "etc/ssl/certs/ca-certificates.crt").exists():
        pytest.skip("the host has no certificates")
    program = (
        "import os, ssl; paths = ssl.get_default_verify_paths(); "
        "loaded = ssl.create_default_context().cert_store_stats()['x509_ca']; "
        "names = os.listdir(paths.capath); os.chdir(paths.capath); "
        "hashed = [n for n in names if n[8:9] == '.' and os.stat(n)]; "
        "print(max(loaded, len(hashed)))"
    )
    assert int(layer.run(f'python3 -c "{program}"')) > 50


def test_every_extension_module_can_be_imported(layer: Layer) -> None:
    program = (
        "import glob, importlib, sysconfig; "
        "names = [p.split('/')[-1].split('.')[0] for p in "
        "glob.glob(sysconfig.get_path('platstdlib') + '/lib-dynload/*.so')]; "
        "[importlib.import_module(n) for n in names]; print(len(names))"
    )
    count = int(layer.run(f'python3 -c "{program}"'))
    if not count:
        pytest.skip("this Python has all its modules built in")
    assert count > 10


def test_python_finds_valid_bytecode(layer: Layer) -> None:
    if not any(
        entry.dest.endswith("/__pycache__/argparse.cpython-311.pyc") for entry in layer.manifest.entries
    ):
        pytest.skip("the host's Python has no bytecode, or is not 3.11")
    out = layer.run("python3 -v -c 'import argparse' 2>&1 | grep argparse")
    assert "matches /usr/lib" in out
    assert "wrote" not in out


def test_a_virtual_environment(layer: Layer) -> None:
    if not any(entry.dest.endswith("ensurepip/__init__.py") for entry in layer.manifest.entries):
        pytest.skip("the host's Python cannot make one")
    out = layer.run("cd /tmp && python3 -m venv v && v/bin/python -m pip --version")
    assert "from /tmp/v/lib/" in out


def test_pip_may_install_for_root(layer: Layer) -> None:
    """A wheel made on the spot: no network is needed to see that nothing forbids it."""
    layer.has("pip")
    make = (
        "import zipfile; z = zipfile.ZipFile('/tmp/probe-1-py3-none-any.whl', 'w'); "
        "d = 'probe-1.dist-info/'; "
        "z.writestr('probe.py', 'x = 41'); "
        "z.writestr(d + 'METADATA', 'Metadata-Version: 2.1\\nName: probe\\nVersion: 1\\n'); "
        "z.writestr(d + 'WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n'); "
        "z.writestr(d + 'RECORD', ''); z.close()"
    )
    out = layer.run(
        f'python3 -c "{make}" && pip install -q --no-index /tmp/probe-1-py3-none-any.whl && '
        'cd / && python3 -c "import probe; print(probe.x + 1)"'
    )
    assert out.strip() == "42"


def test_node(layer: Layer) -> None:
    layer.has("node", "npm")
    assert (
        layer.run("node -e 'console.log(6*7, require(\"crypto\").randomBytes(2).length)'").strip() == "42 2"
    )
    assert layer.run("npm --version").strip()[0].isdigit()


def test_git(layer: Layer) -> None:
    layer.has("git")
    out = layer.run(
        "cd /tmp && git init -q r && cd r && echo x > f && git add f && "
        "git -c user.name=a -c user.email=b commit -qm first && git log --oneline && "
        "git clone -q . ../s && ls ../s"
    )
    assert "first" in out
    assert out.endswith("f\n")


@pytest.mark.parametrize("packer", ["gzip", "bzip2", "xz", "zstd"])
def test_archives(layer: Layer, packer: str) -> None:
    layer.has(packer)
    out = layer.run(
        f"cd /tmp && echo hello > f && tar -cf a --use-compress-program={packer} f && "
        "rm f && tar -xf a && cat f"
    )
    assert out == "hello\n"


def test_the_ordinary_user(layer: Layer) -> None:
    assert "uid=1000(user) gid=1000(user)" in layer.run("id user")
    assert layer.run(
        "id -un; touch ~user/f && echo ok; cat /etc/shadow 2>/dev/null || echo no", user=1000
    ) == ("user\nok\nno\n")


def test_names_resolve(layer: Layer) -> None:
    layer.has("getent")
    assert "localhost" in layer.run(
        "getent hosts localhost; getent passwd user; getent services https || true"
    )


# the worker alone: as this user, in a folder of its own, without namespaces


def entry(dest: str, kind: str = "directory", **more: object) -> dict[str, object]:
    return {"dest": dest, "kind": kind, "mode": 0o755, "mtime_ns": 10**18, **more}


def build(dest: Path, *entries: dict[str, object]) -> dict[str, Any]:
    """With the offset that makes the sandbox's root this user: only its own ids may an ordinary user give."""
    manifest = {"entries": [{"gid": os.getgid() - os.getuid()} | item for item in entries]}
    return embed_worker.build(str(dest), manifest, offset=os.getuid())


@pytest.mark.parametrize("dest", ["/etc/x", "../x", "a/../../x", "a//b", "", ".", "a/.", "x\0y"])
def test_destinations_outside_are_refused(tmp_path: Path, dest: str) -> None:
    with pytest.raises(embed_worker.ManifestError):
        build(tmp_path / "layer", entry("a"), entry(dest))
    assert list(tmp_path.iterdir()) == [], "a failed build leaves nothing"


def test_links_in_the_layer_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    with pytest.raises((embed_worker.ManifestError, OSError)):
        build(
            tmp_path / "layer",
            entry("a", "symlink", target=str(outside)),
            entry("a/f", "literal", content="eA=="),
        )
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("kind", ["directory", "literal", "symlink"])
def test_nothing_is_made_twice(tmp_path: Path, kind: str) -> None:
    twice = entry("a", kind, target="b", content="eA==")
    with pytest.raises(FileExistsError):
        build(tmp_path / "layer", entry("a", "symlink", target=str(tmp_path)), twice)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_layer_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "layer").mkdir()
    with pytest.raises(FileExistsError):
        build(tmp_path / "layer", entry("a"))
    assert list((tmp_path / "layer").iterdir()) == []


def test_what_an_interrupted_run_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "layer.partial/old").mkdir(parents=True)
    build(tmp_path / "layer", entry("new"))
    assert [item.name for item in (tmp_path / "layer").iterdir()] == ["new"]
    assert not (tmp_path / "layer.partial").exists()


def test_sources_that_cannot_be_copied_are_listed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "file").write_bytes(b"12345")
    names = ["gone", "fifo", "link", "file"]
    report = build(
        tmp_path / "layer",
        *(entry(name, "file", source=str(tmp_path / name), size=5) for name in names),
    )
    assert [line.split(":")[0] for line in report["skipped"]] == [str(tmp_path / name) for name in names[:3]]
    assert report["changed"] == [str(tmp_path / "file")], "its time is not the one of the manifest"
    assert os.listdir(tmp_path / "layer") == ["file"]
    assert report["entries"] == 1
    assert report["bytes"] == 5


def test_set_id_bits_are_never_given(tmp_path: Path) -> None:
    build(tmp_path / "layer", entry("tool", "literal", content="eA==") | {"mode": 0o6755})
    assert stat.S_IMODE((tmp_path / "layer/tool").stat().st_mode) == 0o755


@pytest.mark.parametrize("lost", [(), ("copy_file_range",), ("copy_file_range", "sendfile")])
def test_every_way_of_copying_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: tuple[str, ...]
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(95, "Operation not supported")

    for name in lost:
        monkeypatch.setattr(os, name, refuse)
    content = os.urandom(3_000_001)
    (tmp_path / "file").write_bytes(content)
    build(tmp_path / "layer", entry("copy", "file", source=str(tmp_path / "file"), size=len(content)))
    assert (tmp_path / "layer/copy").read_bytes() == content


def test_the_command_says_what_was_wrong(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nsbox.oci.embed_worker", str(tmp_path / "layer")],
        input=b'{"entries": [{"dest": "../x"}]}',
        capture_output=True,
        check=False,
        cwd=REPOSITORY,
    )
    assert done.returncode == 1
    assert b"leads out of the layer" in done.stderr
    assert b"Traceback" not in done.stderr


def test_the_worker_needs_the_standard_library_only() -> None:
    code = "import sys, nsbox.oci.embed_worker; print('msgspec' in sys.modules, 'trio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=REPOSITORY)
    assert done.stdout.split() == [b"False", b"False"]
