"""Snapshots, forks and differences, of real sandboxes."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.client import JSON, Answer, Api, Sandbox
from tests.e2e.daemon import Daemon, wait_until


@pytest.fixture
def clean(api: Api) -> Iterator[None]:
    """No snapshot is left to the next test."""
    yield
    for one in api.request("GET", "/snapshots").json:
        assert api.request("DELETE", f"/snapshots/{one['id']}").status == 200


def take(sandbox: Sandbox, **wish: JSON) -> JSON:
    answer = sandbox.request("POST", "/snapshots", wish)
    assert answer.status == 201, answer
    assert answer.headers["Location"] == f"/api/v1/snapshots/{answer.json['id']}"
    return answer.json


def sh(sandbox: Sandbox, command: str, **more: JSON) -> str:
    answer = sandbox.exec(command, **more)
    assert answer.status == 200, answer
    assert answer.json["exitCode"] == 0, answer.json
    return str(answer.json["stdout"])


#: Everything that a tree can hold, and a description of it that two equal trees share.
FILL = r"""
import os, socket
os.makedirs("/data/deep/er"); os.chdir("/data")
open("plain", "w").write("plain\n"); os.chmod("plain", 0o640); os.chown("plain", 1000, 1001)
os.utime("plain", ns=(1_000_000_007, 1_500_000_000_123_456_789))
open("setuid", "w").write("x"); os.chmod("setuid", 0o6755)
os.mkdir("sticky"); os.chmod("sticky", 0o1777)
os.mkdir("setgid"); os.chown("setgid", 0, 42); os.chmod("setgid", 0o2775)
open("setgid/in", "w").close()
os.symlink("/etc/passwd", "link"); os.symlink("nowhere\n\xe9", "dangling")
os.chown("link", 7, 8, follow_symlinks=False)
os.link("plain", "deep/hard"); os.link("plain", "deep/er/hard")
os.mkfifo("fifo", 0o622)
s = socket.socket(socket.AF_UNIX); s.bind("socket")
os.setxattr("plain", "user.colour", b"\x00\xffblue")
os.setxattr("sticky", "user.on.folder", b"yes")
with open("sparse", "wb") as f:
    f.truncate(1 << 30); f.seek(500 << 20); f.write(b"island"); f.seek(0); f.write(b"head")
open(b"odd \xff\xfe\n\t name", "wb").write(b"odd")
open("\u00fcn\u00efc\u00f6d\u00e9 \U0001f600", "w").close()
open(b"n" * 255, "w").close()
os.mkdir("empty")
open("locked", "w").write("secret"); os.chmod("locked", 0)
os.mkdir("closed"); open("closed/in", "w").write("in"); os.chmod("closed", 0)
"""
TELL = r"""
import os, hashlib, json, sys, stat
seen, out = {}, []
for where, folders, files in os.walk(sys.argv[1].encode()):
    for name in [b"."] + files + [f for f in folders if os.path.islink(os.path.join(where, f))]:
        path = os.path.join(where, name); s = os.lstat(path); kind = stat.S_IFMT(s.st_mode)
        if kind == stat.S_IFSOCK: continue
        row = [path.decode("latin-1"), s.st_mode, s.st_uid, s.st_gid]
        if name != b".": row += [s.st_mtime_ns, s.st_nlink]
        if kind == stat.S_IFREG:
            row += [s.st_size, s.st_blocks < 64 * 1024, seen.setdefault(s.st_ino, path.decode("latin-1"))]
            row.append(hashlib.sha256(open(path, "rb").read(1 << 20)).hexdigest())
        if kind == stat.S_IFLNK: row.append(os.readlink(path).decode("latin-1"))
        if kind in (stat.S_IFREG, stat.S_IFDIR):
            row.append(sorted((n, os.getxattr(path, n).hex()) for n in os.listxattr(path)))
        out.append(row)
print(json.dumps(sorted(out)))
"""


def tell(sandbox: Sandbox, where: str = "/data") -> JSON:
    answer = sandbox.exec(["python3", "-c", TELL, where])
    assert answer.json["exitCode"] == 0, answer.json
    return json.loads(answer.json["stdout"])


def fill(sandbox: Sandbox) -> None:
    answer = sandbox.exec(["python3", "-c", FILL])
    assert answer.json["exitCode"] == 0, answer.json


def from_snapshot(make_sandbox: Callable[..., Sandbox], snapshot: JSON, **wish: JSON) -> Sandbox:
    return make_sandbox(snapshot=snapshot["id"], **wish)


def test_everything_that_a_tree_can_hold(
    sandbox: Sandbox, make_sandbox: Callable[..., Sandbox], clean: None
) -> None:
    fill(sandbox)
    before = tell(sandbox)
    taken = take(sandbox, name="full")
    assert taken["skipped"] == 1, "the socket"
    assert taken["changed"] == 0
    sh(sandbox, "rm -rf /data; mkdir /data; echo other > /data/plain")
    again = from_snapshot(make_sandbox, taken)
    assert tell(again) == before
    assert again.api.get(again.id)["snapshotId"] == taken["id"]
    assert taken["sizeBytes"] < 10 << 20, "holes are holes"


def test_a_file_that_is_written_in_place_later(
    sandbox: Sandbox, make_sandbox: Callable[..., Sandbox], clean: None
) -> None:
    """The reason why the files are copied and not linked."""
    sh(sandbox, "echo first > /kept")
    taken = take(sandbox)
    sh(sandbox, "printf second 1<> /kept; echo more >> /kept")
    assert sh(from_snapshot(make_sandbox, taken), "cat /kept") == "first\n"
    assert sh(sandbox, "cat /kept") == "secondmore\n"


def test_whiteouts_and_opaque_folders(
    sandbox: Sandbox, make_sandbox: Callable[..., Sandbox], clean: None
) -> None:
    sh(sandbox, "rm /etc/passwd; rm -rf /etc/ssl; mkdir /etc/ssl; echo mine > /etc/ssl/only")
    taken = take(sandbox)
    again = from_snapshot(make_sandbox, taken)
    assert sh(again, "ls /etc/ssl; test ! -e /etc/passwd && echo gone", user="0") == "only\ngone\n"
    sh(again, "echo back > /etc/passwd; rm /etc/ssl/only")
    third = from_snapshot(make_sandbox, take(again))
    assert sh(third, "ls /etc/ssl; cat /etc/passwd") == "back\n"


def test_limits_come_from_the_source(make_sandbox: Callable[..., Sandbox], clean: None) -> None:
    source = make_sandbox(
        memoryMb=768, storageMb=128, timeoutMs=120_000, network={"mode": "off"}, envVars={"SECRET": "s"}
    )
    taken = take(source)
    again = from_snapshot(make_sandbox, taken)
    told = again.api.get(again.id)
    assert (told["memoryMb"], told["storageMb"], told["timeoutMs"]) == (768, 128, 120_000)
    assert told["network"]["mode"] == "off"
    assert told["templateId"] == "default"
    assert sh(again, "echo ${SECRET-none}") == "none\n", (
        "a sandbox's own environment is no part of a snapshot"
    )
    other = from_snapshot(make_sandbox, taken, memoryMb=512)
    assert other.api.get(other.id)["memoryMb"] == 512


def test_a_snapshot_outlives_its_sandbox_and_its_record(api: Api, daemon: Daemon, clean: None) -> None:
    source = api.sandbox()
    sh(source, "echo kept > /kept")
    taken = take(source)
    assert [one["id"] for one in source.request("GET", "/snapshots").json] == [taken["id"]]
    api.kill(source.id)
    second = api.sandbox(snapshot=taken["id"])
    assert api.request("DELETE", f"/snapshots/{taken['id']}").json == {"id": taken["id"], "removed": True}
    assert api.request("GET", f"/snapshots/{taken['id']}").code == "snapshot_not_found"
    assert api.request("POST", "/sandboxes", {"snapshot": taken["id"]}).code == "snapshot_not_found"
    # Who stands on it keeps it, and may be the source of others.
    assert sh(second, "cat /kept") == "kept\n"
    third = take(second)
    assert third["layers"] == 3
    api.kill(second.id)
    last = api.sandbox(snapshot=third["id"])
    assert sh(last, "cat /kept") == "kept\n"
    api.kill(last.id)
    api.request("DELETE", f"/snapshots/{third['id']}")
    wait_until(lambda: not layers(daemon), what="the last layer goes")


def layers(daemon: Daemon) -> list[str]:
    return [name for name in os.listdir(os.path.join(daemon.state_dir, "layers")) if name.startswith("s-")]


def test_what_is_wrong_is_told(sandbox: Sandbox, api: Api) -> None:
    def problem(answer: Answer) -> tuple[int, str, str | None]:
        return answer.status, answer.code, answer.json.get("field")

    both = api.request("POST", "/sandboxes", {"snapshot": "snap_x", "image": "alpine"})
    assert problem(both) == (422, "invalid_field", "snapshot")
    none = api.request("POST", "/sandboxes", {"snapshot": "snap_x"})
    assert problem(none) == (404, "snapshot_not_found", None)
    assert problem(sandbox.request("POST", "/snapshots", {"name": "a\nb"})) == (422, "invalid_field", "name")
    assert problem(sandbox.request("POST", "/fork", {"count": 65})) == (422, "invalid_field", "count")
    assert problem(sandbox.request("POST", "/fork", {"image": "a"})) == (422, "invalid_field", "image")
    assert problem(sandbox.request("GET", "/diff?limit=0")) == (422, "invalid_field", "limit")
    assert problem(sandbox.request("GET", "/diff?after=%25")) == (422, "invalid_field", "after")


def test_forks(api: Api, make_sandbox: Callable[..., Sandbox], daemon: Daemon) -> None:
    source = make_sandbox(envVars={"A": "1", "B": "2"})
    sh(source, "echo cut > /kept")
    answer = source.request("POST", "/fork", {"count": 3, "envVars": {"B": "3"}})
    assert answer.status == 201, answer
    forks = [Sandbox(api, one["id"]) for one in answer.json["sandboxes"]]
    assert len({one.id for one in forks}) == 3
    for number, one in enumerate(forks):
        assert sh(one, f"cat /kept; echo $A$B; echo {number} > /kept") == "cut\n13\n"
        assert api.get(one.id)["forkedFrom"] == source.id
    assert [sh(one, "cat /kept") for one in forks] == ["0\n", "1\n", "2\n"]
    assert sh(source, "cat /kept") == "cut\n"
    assert api.request("GET", "/snapshots").json == []
    assert len(layers(daemon)) == 1
    for one in forks:
        api.kill(one.id)
    wait_until(lambda: not layers(daemon), what="the layer goes with the last fork")


def changes(sandbox: Sandbox, query: str = "") -> dict[str, str]:
    answer = sandbox.request("GET", f"/diff{query}")
    assert answer.status == 200, answer
    return {one["path"]: one["change"] for one in answer.json["changes"]}


#: What nsbox writes into each sandbox.
OWN = {"/etc/hostname", "/etc/hosts", "/etc/resolv.conf"}


def test_what_has_changed(sandbox: Sandbox, api: Api, clean: None) -> None:
    fresh = changes(sandbox)
    assert set(fresh) <= OWN, fresh
    sh(
        sandbox,
        "echo > /new; mkdir /tree; echo > /tree/a; rm /etc/group; echo x >> /etc/passwd;"
        "rm -rf /etc/ssl; mkdir /etc/ssl; echo > /etc/ssl/only; chmod 711 /root",
    )
    found = {path: how for path, how in changes(sandbox).items() if path not in OWN}
    gone = {path for path, how in found.items() if how == "deleted"}
    assert gone >= {"/etc/group"}
    assert all(path == "/etc/group" or path.startswith("/etc/ssl/") for path in gone)
    assert len(gone) > 1, "what the opaque folder hides"
    assert {path: how for path, how in found.items() if path not in gone} == {
        "/new": "added",
        "/tree": "added",
        "/tree/a": "added",
        "/etc/passwd": "modified",
        "/etc/ssl/only": "added",
        "/root": "modified",
    }
    taken = take(sandbox)
    answer = api.request("GET", f"/snapshots/{taken['id']}/diff")
    assert {one["path"]: one["change"] for one in answer.json["changes"] if one["path"] not in OWN} == found


def test_differences_come_in_pages(sandbox: Sandbox) -> None:
    sh(sandbox, "mkdir -p /t/a /t/b/c /t/d; cd /t; for i in 1 2 3; do touch a/$i b/$i b/c/$i d/$i $i; done")
    whole = list(changes(sandbox))
    assert whole == sorted(whole, key=lambda path: path.split("/"))
    for limit in (1, 2, 7):
        found: list[str] = []
        after = ""
        while True:
            answer = sandbox.request("GET", f"/diff?limit={limit}&after={after}")
            assert answer.status == 200, answer
            found += [one["path"] for one in answer.json["changes"]]
            if answer.json["next"] is None:
                break
            after = answer.json["next"]
        assert found == whole


def test_names_that_are_not_utf8(sandbox: Sandbox) -> None:
    fill(sandbox)
    answer = sandbox.request("GET", "/diff")
    raw = [base64.b64decode(one["pathBase64"]) for one in answer.json["changes"] if "pathBase64" in one]
    assert raw == [b"/data/odd \xff\xfe\n\t name"]


#: Writes two files in turns, each in place: at any moment they differ by one at most.
PAIR = """
import os
a, b = (os.open(f"/pair/{name}", os.O_RDWR | os.O_CREAT) for name in "ab")
number = 0
while True:
    number += 1
    os.pwrite(a, b"%020d" % number, 0); os.pwrite(b, b"%020d" % number, 0)
    if number == 1: os.close(os.open("/pair/ready", os.O_CREAT))
"""
#: Inserts two rows at a time.
DATABASE = """
import sqlite3
c = sqlite3.connect("/pair/db", isolation_level=None)
c.execute("CREATE TABLE t (n, x)")
for n in range(10**9):
    c.execute("BEGIN"); c.execute("INSERT INTO t VALUES (?, randomblob(3000))", (n,))
    c.execute("INSERT INTO t VALUES (?, randomblob(3000))", (n,)); c.execute("COMMIT")
"""
CHECK = """
import sqlite3
c = sqlite3.connect("/pair/db")
for query in ("PRAGMA integrity_check", "SELECT count(*) % 2 FROM t"): print(c.execute(query).fetchone()[0])
"""


def test_a_database_that_is_written_meanwhile(
    sandbox: Sandbox, make_sandbox: Callable[..., Sandbox], clean: None
) -> None:
    """All of it is of one moment."""
    sh(sandbox, "mkdir /pair; for i in $(seq 300); do head -c 20000 /dev/zero > /pair/$i; done")
    for code in (PAIR, DATABASE):
        assert sandbox.request("POST", "/processes", {"command": ["python3", "-c", code]}).status == 201
    ready = "test -e /pair/ready -a -s /pair/db"
    wait_until(lambda: sandbox.exec(ready).json["exitCode"] == 0, what="both write")
    for _ in range(3):
        taken = take(sandbox)
        if taken["processes"] == "running":
            pytest.skip("no cgroup is delegated here: nothing can be made to stand still")
        assert taken["changed"] == 0
        again = from_snapshot(make_sandbox, taken)
        first, second = (int(sh(again, f"cat /pair/{name}")) for name in "ab")
        assert first - second in (0, 1)
        answer = again.exec(["python3", "-c", CHECK])
        assert answer.json["stdout"] == "ok\n0\n", answer.json
    before = int(sh(sandbox, "cat /pair/a"))
    wait_until(lambda: int(sh(sandbox, "cat /pair/a")) > before, what="it goes on writing")


def export(api: Api, path: str, to: str) -> None:
    """To a file, as a browser would."""
    answer = api.request("GET", path)
    assert answer.status == 200, answer
    assert answer.headers["Content-Type"] == "application/x-tar"
    with open(to, "wb") as file:
        file.write(answer.body)


def test_an_export_comes_back_by_import(
    sandbox: Sandbox, api: Api, make_sandbox: Callable[..., Sandbox], clean: None
) -> None:
    fill(sandbox)
    sh(sandbox, "rm /etc/group; rm -rf /etc/ssl; mkdir /etc/ssl; echo mine > /etc/ssl/only")
    before = tell(sandbox), tell(sandbox, "/etc/ssl")
    taken = take(sandbox)
    whole = api.request("GET", f"/snapshots/{taken['id']}/export")
    assert whole.status == 200, whole
    name = f"test/{taken['id']}:1"
    headers = {"Content-Type": "application/octet-stream"}
    came = api.request("POST", f"/images/import?name={name}", raw=whole.body, headers=headers)
    assert came.status == 200, came
    assert len(came.json["layers"]) == 2
    try:
        again = make_sandbox(image=name, pull="never")
        assert (tell(again), tell(again, "/etc/ssl")) == before
        assert sh(again, "test -e /etc/group || echo gone; pwd") == sh(sandbox, "echo gone; pwd")
        image = api.request("GET", f"/images/export?image={name}")
        assert image.status == 200, image
        assert abs(len(image.body) - len(whole.body)) < 65_536
    finally:
        assert api.request("DELETE", f"/images/{name}").status == 200


def test_other_tools_take_an_export(sandbox: Sandbox, api: Api, tmp_path: Path, clean: None) -> None:
    """skopeo reads the layout, umoci makes a tree of it; GNU tar reads the plain form."""
    for tool in ("skopeo", "umoci", "tar"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed here")
    if os.geteuid() != 0:
        pytest.skip("only root can give files to the owners that they have in the archive")
    fill(sandbox)
    sh(sandbox, "rm /etc/group; rm -rf /etc/ssl; mkdir /etc/ssl; echo mine > /etc/ssl/only")
    before = [row for row in tell(sandbox) if not row[0].startswith("/data/sparse")]
    taken = take(sandbox)
    archive, layout = tmp_path / "whole.tar", tmp_path / "layout"
    export(api, f"/snapshots/{taken['id']}/export?format=oci", str(archive))
    run("skopeo", "copy", f"oci-archive:{archive}:latest", f"oci:{layout}:it")
    run("umoci", "unpack", "--image", f"{layout}:it", str(tmp_path / "bundle"))
    plain = tmp_path / "plain"
    plain.mkdir()
    export(api, f"/snapshots/{taken['id']}/export?format=tar", str(tmp_path / "plain.tar"))
    run("tar", "-C", str(plain), "--xattrs", "--numeric-owner", "-xpf", str(tmp_path / "plain.tar"))
    for tree in (tmp_path / "bundle" / "rootfs", plain):
        assert not (tree / "etc" / "group").exists()
        assert sorted(os.listdir(tree / "etc" / "ssl")) == ["only"]
        assert (tree / "data" / "sparse").stat().st_size == 1 << 30
        told = subprocess.run(
            [sys.executable, "-c", TELL, "data"], cwd=tree, capture_output=True, check=True, text=True
        )
        found = [[f"/{row[0]}", *row[1:]] for row in json.loads(told.stdout)]
        found = [row for row in found if not row[0].startswith("/data/sparse")]
        assert _comparable(found) == _comparable(before)


def test_the_command_line(sandbox: Sandbox, daemon: Daemon, clean: None) -> None:
    sh(sandbox, "echo kept > /kept")

    def nsbox(*arguments: str, status: int = 0) -> str:
        done = daemon.nsbox_on_state(*arguments)
        assert done.returncode == status, (arguments, done)
        return str(done.stdout if status == 0 else done.stderr)

    # The command's key is the operator's, and so is this sandbox.
    made = nsbox("snapshot", "create", sandbox.id, "--name", "mine").strip()
    assert made.startswith("snap_")
    assert re.search(rf"^{made}  mine  default ", nsbox("snapshot", "list"), re.MULTILINE)
    whole = os.path.join(daemon.state_dir, "whole.tar")  # where the service user may write
    try:
        nsbox("snapshot", "export", made, "--format", "tar", "-o", whole)
        with tarfile.open(whole) as archive:
            member = archive.extractfile("kept")
            assert member is not None
            assert member.read() == b"kept\n"
        assert not os.path.exists(f"{whole}.partial")
    finally:
        os.unlink(whole)
    assert nsbox("snapshot", "remove", made).strip() == made
    assert "there is no snapshot" in nsbox("snapshot", "remove", made, status=1)


def _comparable(rows: JSON) -> JSON:
    """Without the paths of a file's first name, which differ by the tree."""
    return [[str(part).removeprefix("/") for part in row] for row in rows]


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stderr)
