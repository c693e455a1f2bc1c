# ruff: noqa: E501 - what runs inside a sandbox is clearest as the line that somebody would type
"""Files over HTTP: written, read, listed, removed, and everything a path can be."""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import stat
import time
from collections.abc import Iterator

import pytest

from tests.e2e.client import Answer, Api, Sandbox
from tests.e2e.daemon import Daemon, wait_until

OCTETS = "application/octet-stream"


# ---- write and read


def test_a_file_comes_back_as_it_was(sandbox: Sandbox) -> None:
    text = "zeile 1\nüber\n\0\r\n"
    written = sandbox.write("/deep/er/than/that/a file", text)
    assert written.json == {"path": "/deep/er/than/that/a file", "written": True, "size": len(text.encode())}
    read = sandbox.read("/deep/er/than/that/a file")
    assert read.json == {"path": "/deep/er/than/that/a file", "content": text, "encoding": "utf8"}
    assert sandbox.out("stat -c '%a %U %G' /deep /deep/er/than/that /deep/er/than/that/*").split("\n")[:3] == [
        "755 root root", "755 root root", "644 root root",
    ]  # fmt: skip


@pytest.mark.parametrize("blob", [b"", b"\0", b"\xff\xfe\0", bytes(range(256)) * 1000], ids=len)
def test_bytes_come_back_as_they_were(sandbox: Sandbox, blob: bytes) -> None:
    text = base64.b64encode(blob).decode()
    assert sandbox.write("/tmp/b", text, encoding="base64").json["size"] == len(blob)
    assert sandbox.download("/tmp/b").body == blob
    assert base64.b64decode(sandbox.read("/tmp/b", encoding="base64").json["content"]) == blob
    plain = sandbox.read("/tmp/b").json
    assert (
        base64.b64decode(plain["content"]) if plain["encoding"] == "base64" else plain["content"].encode()
    ) == blob
    assert sandbox.upload("/tmp/c", blob).json == {"path": "/tmp/c", "written": True, "size": len(blob)}
    assert sandbox.out("cmp /tmp/b /tmp/c && echo same") == "same\n"


def test_a_replaced_file_keeps_mode_and_owner(sandbox: Sandbox) -> None:
    sandbox.out("echo old >/tmp/f; chown 1000:2000 /tmp/f; chmod 4750 /tmp/f; ln /tmp/f /tmp/hard")
    assert sandbox.write("/tmp/f", "new").status == 200
    assert sandbox.upload("/tmp/f", b"newer").status == 200
    assert (
        sandbox.out("stat -c '%a %u:%g' /tmp/f; cat /tmp/f; echo; cat /tmp/hard")
        == "4750 1000:2000\nnewer\nold\n"
    )


def test_nobody_sees_half_a_file(sandbox: Sandbox) -> None:
    """A reader inside, while the file is replaced over and over: one whole content or the other."""
    reader = "import hashlib, time\nseen = set()\nend = time.time() + 1.5\nwhile time.time() < end:\n    seen.add(len(set(open('/tmp/f','rb').read())))\nprint(sorted(seen))"
    sandbox.upload("/tmp/f", b"a" * 300_000)
    sandbox.request(
        "POST",
        "/processes",
        {"command": ["sh", "-c", f'python3 -c "{reader}" >/tmp/seen.tmp; mv /tmp/seen.tmp /tmp/seen']},
    )
    replaced = 0
    while sandbox.read("/tmp/seen").status != 200:
        assert sandbox.upload("/tmp/f", b"ab"[replaced % 2 : replaced % 2 + 1] * 300_000).status == 200
        replaced += 1
    print(f"{replaced} replacements under a reader")
    assert sandbox.read("/tmp/seen").json["content"] == "[1]\n"
    assert [name for name in sandbox.listing("/tmp")["files"] if name.startswith(".nsbox")] == []


@pytest.mark.parametrize(("mode", "shown"), [("0600", "600"), ("755", "755"), ("4755", "4755"), ("0", "0")])
def test_the_mode_can_be_chosen(sandbox: Sandbox, mode: str, shown: str) -> None:
    assert sandbox.write("/tmp/json", "x", mode=mode).status == 200
    assert sandbox.upload("/tmp/raw", b"x", mode=mode).status == 200
    assert sandbox.out("stat -c %a /tmp/json /tmp/raw") == f"{shown}\n{shown}\n"


@pytest.mark.parametrize("mode", ["rw", "-644", "99", "100644", "0o644", ""])
def test_a_wrong_mode_is_named(sandbox: Sandbox, mode: str) -> None:
    assert sandbox.write("/tmp/f", "x", mode=mode).json["field"] == "mode"
    assert sandbox.upload("/tmp/f", b"x", mode=mode).json["field"] == "mode"
    assert sandbox.read("/tmp/f").status == 404


def test_what_is_too_large_for_json_says_how_else(sandbox: Sandbox) -> None:
    size = (10 << 20) + 1
    sandbox.out(f"head -c {size} /dev/zero >/tmp/big")
    read = sandbox.read("/tmp/big")
    assert (read.status, read.code) == (413, "file_too_large")
    assert "raw=true" in read.json["remedy"]
    written = sandbox.write("/tmp/other", "x" * size)
    assert (written.status, written.code) == (413, "body_too_large")
    assert OCTETS in written.json["remedy"]
    assert sandbox.read("/tmp/other").status == 404


# ---- streams


def _pieces(total: int, digest: hashlib._Hash) -> Iterator[bytes]:
    piece = os.urandom(1 << 20)
    for _ in range(total >> 20):
        digest.update(piece)
        yield piece


def test_a_large_file_is_streamed_both_ways(daemon: Daemon, api: Api, sandbox: Sandbox) -> None:
    size = 64 << 20
    digest = hashlib.sha256()
    before = daemon.rss_kib()
    raw = http.client.HTTPConnection(api.host, api.port, timeout=60)
    where = f"/api/v1/sandboxes/{sandbox.id}/files?path=/tmp/large"
    headers = {"Authorization": f"Bearer {api.key}"}
    begun = time.monotonic()
    try:
        raw.request(
            "PUT",
            where,
            _pieces(size, digest),
            {**headers, "Content-Type": OCTETS, "Content-Length": str(size)},
        )
        answer = raw.getresponse()
        body = answer.read()
        assert (answer.status, b'"size":67108864' in body) == (200, True), body
        up = time.monotonic() - begun
        during = daemon.rss_kib()
        assert sandbox.out("sha256sum /tmp/large").split()[0] == digest.hexdigest()
        back = hashlib.sha256()
        begun = time.monotonic()
        raw.request("GET", where + "&raw=true", headers=headers)
        response = raw.getresponse()
        assert (response.status, response.headers["content-length"]) == (200, str(size))
        while piece := response.read(1 << 20):
            back.update(piece)
    finally:
        raw.close()
    down = time.monotonic() - begun
    after = daemon.rss_kib()
    print(f"64 MiB up {64 / up:.0f} MiB/s, down {64 / down:.0f} MiB/s; rss {before}, {during}, {after} KiB")
    assert back.hexdigest() == digest.hexdigest()
    assert max(during, after) - before < 24 * 1024


def test_a_chunked_upload_needs_no_length(api: Api, sandbox: Sandbox) -> None:
    raw = http.client.HTTPConnection(api.host, api.port, timeout=30)
    where = f"/api/v1/sandboxes/{sandbox.id}/files?path=/tmp/chunked"
    headers = {"Authorization": f"Bearer {api.key}", "Content-Type": OCTETS}
    try:
        raw.request("PUT", where, iter([b"a" * 10, b"b" * 100_000, b"c"]), headers, encode_chunked=True)
        answer = raw.getresponse()
        assert answer.status == 200, answer.read()
        answer.read()
    finally:
        raw.close()
    assert sandbox.download("/tmp/chunked").body == b"a" * 10 + b"b" * 100_000 + b"c"


def test_half_an_upload_leaves_the_old_file(api: Api, sandbox: Sandbox) -> None:
    sandbox.write("/tmp/f", "old")
    raw = http.client.HTTPConnection(api.host, api.port, timeout=30)
    raw.putrequest("PUT", f"/api/v1/sandboxes/{sandbox.id}/files?path=/tmp/f")
    for name, value in (
        ("Authorization", f"Bearer {api.key}"),
        ("Content-Type", OCTETS),
        ("Content-Length", "1000000"),
    ):
        raw.putheader(name, value)
    raw.endheaders(b"x" * 100_000)

    def temporaries() -> list[str]:
        return [name for name in sandbox.listing("/tmp")["files"] if name.startswith(".nsbox-")]

    wait_until(lambda: len(temporaries()) == 1, what="the upload has begun")
    raw.close()
    wait_until(lambda: temporaries() == [], what="the half is removed")
    assert sandbox.read("/tmp/f").json["content"] == "old"


@pytest.mark.parametrize(
    ("asked", "status", "expected"),
    [
        ("bytes=0-0", 206, b"0"), ("bytes=2-4", 206, b"234"), ("bytes=5-", 206, b"56789"), ("bytes=-3", 206, b"789"),
        ("bytes=0-99", 206, b"0123456789"), ("bytes=-99", 206, b"0123456789"), ("bytes=10-", 416, None),
        ("bytes=10-20", 416, None), ("bytes=-0", 416, None), ("bytes=4-2", 200, b"0123456789"),
        ("bytes=0-1,3-4", 200, b"0123456789"), ("lines=1-2", 200, b"0123456789"), ("bytes=a-b", 200, b"0123456789"),
        ("bytes=99999999999999999-", 416, None),
    ],
)  # fmt: skip
def test_ranges(sandbox: Sandbox, asked: str, status: int, expected: bytes | None) -> None:
    sandbox.upload("/tmp/f", b"0123456789")
    answer = sandbox.download("/tmp/f", {"Range": asked})
    assert answer.status == status, answer
    if expected is None:
        assert answer.headers["content-range"] == "bytes */10"
        return
    assert answer.body == expected
    assert answer.headers["accept-ranges"] == "bytes"
    if status == 206:
        start = b"0123456789".index(expected)
        assert answer.headers["content-range"] == f"bytes {start}-{start + len(expected) - 1}/10"


def test_octets_by_accept(sandbox: Sandbox) -> None:
    sandbox.upload("/tmp/f", b"\xff\0")
    answer = sandbox.read("/tmp/f", headers={"Accept": OCTETS})
    assert (answer.body, answer.headers["content-type"]) == (b"\xff\0", OCTETS)
    head = sandbox.files("HEAD", "/tmp/f", raw_="true")
    assert (head.status, head.headers["content-length"], head.body) == (200, "2", b"")


# ---- list


def test_a_listing_says_what_things_are(sandbox: Sandbox) -> None:
    sandbox.out(
        "mkdir -p /d/sub && cd /d && printf 12345 >file && chmod 640 file && chown 7:8 file && ln -s file link && "
        "ln -s /nowhere/at/all dangling && mkfifo fifo && ln -s /dev/zero zero && touch -d @86400 sub/old && "
        "python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('sock')\""
    )
    found = sandbox.listing("/d")
    assert (found["path"], found["truncated"]) == ("/d", False)
    assert found["files"] == ["dangling", "fifo", "file", "link", "sock", "sub", "zero"]
    entries = {one["name"]: one for one in found["entries"]}
    assert {name: one["type"] for name, one in entries.items()} == {
        "dangling": "symlink", "fifo": "fifo", "file": "file", "link": "symlink", "sock": "socket",
        "sub": "directory", "zero": "symlink",
    }  # fmt: skip
    file = entries["file"]
    assert [file[name] for name in ("path", "size", "mode", "uid", "gid")] == ["/d/file", 5, "0640", 7, 8]
    assert (entries["link"]["target"], entries["dangling"]["target"]) == ("file", "/nowhere/at/all")
    assert sandbox.listing("/d/sub")["entries"][0]["mtime"] == "1970-01-02T00:00:00.000Z"
    assert set(sandbox.listing("/d", recursive="true")["files"]) == {*found["files"], "sub/old"}
    assert {one["name"]: one["type"] for one in sandbox.listing("/dev")["entries"]}["zero"] == "device"


def test_twenty_thousand_entries(sandbox: Sandbox) -> None:
    sandbox.out(
        [
            "python3",
            "-c",
            "import os\nos.mkdir('/many')\nfor i in range(20000): os.close(os.open(f'/many/{i:05}', 65))",
        ]
    )
    begun = time.monotonic()
    found = sandbox.listing("/many")
    print(f"20,000 entries listed in {(time.monotonic() - begun) * 1000:.0f} ms")
    assert found["files"] == [f"{i:05}" for i in range(20_000)]
    assert (len(found["entries"]), found["truncated"]) == (20_000, False)
    assert sandbox.remove("/many", recursive="true").status == 200


# ---- remove


def test_removing(sandbox: Sandbox) -> None:
    sandbox.out(
        "mkdir -p /d/full/x /d/empty && echo kept >/d/target && ln -s target /d/link && ln -s full /d/linkdir"
    )
    assert sandbox.remove("/d/link").json == {"path": "/d/link", "deleted": True}
    assert sandbox.remove("/d/linkdir", recursive="true").status == 200
    assert sandbox.remove("/d/empty").status == 200
    full = sandbox.remove("/d/full")
    assert (full.status, full.code) == (409, "directory_not_empty")
    assert "recursive" in full.json["remedy"]
    assert sandbox.listing("/d")["files"] == ["full", "target"]
    assert sandbox.remove("/d", recursive="true").status == 200
    assert (sandbox.remove("/d").status, sandbox.read("/d/target").code) == (404, "file_not_found")


@pytest.mark.parametrize(
    "path", ["/", "//", "/.", "/..", "/tmp/..", "/tmp/.", "/proc", "/dev", "/sys", "/dev/shm"]
)
def test_what_cannot_be_removed(sandbox: Sandbox, path: str) -> None:
    answer = sandbox.remove(path, recursive="true")
    assert 400 <= answer.status < 500, answer
    assert sandbox.out("echo fine >/tmp/x; cat /tmp/x") == "fine\n"


def test_a_tree_that_is_too_deep_for_any_path(sandbox: Sandbox) -> None:
    """3,000 levels; their names together are longer than PATH_MAX."""
    sandbox.out(
        [
            "python3",
            "-c",
            "import os\nos.mkdir('/top'); os.chdir('/top')\nfor i in range(3000): os.mkdir('deep'); os.chdir('deep')",
        ]
    )
    listed = sandbox.files("GET", "/top", list="true", recursive="true")
    assert listed.status == 200, listed
    begun = time.monotonic()
    answer = sandbox.remove("/top", recursive="true")
    print(
        f"3,000 levels removed in {(time.monotonic() - begun) * 1000:.0f} ms; {len(listed.json['files'])} of them listed"
    )
    assert answer.status == 200, answer
    assert sandbox.read("/top").status == 404


# ---- paths


@pytest.mark.parametrize(
    "path",
    ["relative", "", ".", "../etc", "/a\0b", "/" + "n" * 256, "/a" * 2_048, "/" + "n" * 4_096],
    ids=["relative", "empty", "dot", "dots", "nul", "name256", "path4096", "name4096"],
)
def test_a_path_that_cannot_be(sandbox: Sandbox, path: str) -> None:
    for answer in (
        sandbox.read(path),
        sandbox.write(path, "x"),
        sandbox.remove(path),
        sandbox.download(path),
        sandbox.upload(path, b""),
    ):
        assert (answer.status, answer.json["field"]) == (422, "path"), answer


def test_the_query_is_strict(sandbox: Sandbox) -> None:
    for query in (
        "",
        "?Path=/x",
        "?path=/x&path=/y",
        "?path=/x&mod=1",
        "?path=%zz",
        "?path=/x&list=yes",
        "?path=/x&encoding=rot13",
    ):
        answer = sandbox.request("GET", f"/files{query}")
        assert 400 <= answer.status < 500, (query, answer)
        assert answer.headers["content-type"] == "application/problem+json"


def test_the_longest_names_there_are(sandbox: Sandbox) -> None:
    name = "/" + "n" * 255
    assert sandbox.write(name, "long").status == 200
    assert sandbox.read(name).json["content"] == "long"
    assert sandbox.remove(name).status == 200
    wide = "/" + "ü" * 127 + "x"
    assert sandbox.write(wide, "wide").status == 200
    deep = "/deep" + "/" + "/".join(["d" * 200] * 20)[: 4_095 - 6 - 2]
    deep = deep.rstrip("/") + "/f"
    assert len(deep) <= 4_095
    assert sandbox.write(deep, "deep").status == 200
    assert sandbox.read(deep).json["content"] == "deep"


@pytest.mark.parametrize(
    "name", [b"\xff\xfe", b"a b+c&d=e#f?g%h", b"\x01\x02\n\r\t", "ü☃😀".encode(), b"-rf", b"'\"\\"]
)
def test_any_bytes_are_a_name(sandbox: Sandbox, name: bytes) -> None:
    path = b"/names/" + name
    assert sandbox.write(path, "x").status == 200
    assert sandbox.read(path).json["content"] == "x"
    found = sandbox.listing("/names")["entries"][0]
    try:
        assert found["name"] == name.decode()
        assert "nameBase64" not in found
    except UnicodeDecodeError:
        assert base64.b64decode(found["nameBase64"]) == name
    assert sandbox.out(["python3", "-c", "import os; print(os.listdir(b'/names'))"]) == f"{[name]}\n"
    assert sandbox.remove(path).status == 200


def test_dots_stay_inside(sandbox: Sandbox) -> None:
    sandbox.write("/etc/hostname", "inside")
    for path in (
        "/../../../../etc/hostname",
        "/tmp/../../../etc/hostname",
        "/./etc/./hostname",
        "//etc//hostname",
        "/usr/../../etc/hostname",
    ):
        assert sandbox.read(path).json["content"] == "inside", path
    assert sandbox.write("/../../../../tmp/up", "x").status == 200
    assert sandbox.out("cat /tmp/up") == "x"


# ---- what is no plain file


def refused(answer: Answer, *codes: str) -> bool:
    return 400 <= answer.status < 500 and answer.code in codes


def test_directories_where_files_are_expected(sandbox: Sandbox) -> None:
    sandbox.out("mkdir /d; echo x >/f")
    for answer in (
        sandbox.read("/d"),
        sandbox.download("/d"),
        sandbox.write("/d", "x"),
        sandbox.upload("/d", b"x"),
        sandbox.write("/d/", "x"),
        sandbox.read("/"),
    ):
        assert refused(answer, "is_a_directory"), answer
    assert "list=true" in sandbox.read("/d").json["remedy"]
    for answer in (
        sandbox.read("/f/x"),
        sandbox.write("/f/x", "y"),
        sandbox.remove("/f/x"),
        sandbox.files("GET", "/f", list="true"),
        sandbox.read("/f/"),
        sandbox.remove("/f/"),
    ):
        assert refused(answer, "not_a_directory", "is_a_directory"), answer
    assert sandbox.read("/f").json["content"] == "x\n"


@pytest.mark.parametrize(
    "path",
    [
        "/dev/zero",
        "/dev/urandom",
        "/dev/full",
        "/dev/null",
        "/dev/tty",
        "/dev/ptmx",
        "/fifo",
        "/sock",
        "/link-to-zero",
    ],
)
def test_what_is_no_file_neither_streams_nor_waits(sandbox: Sandbox, path: str) -> None:
    sandbox.out(
        "mkfifo /fifo; ln -s /dev/zero /link-to-zero; python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('/sock')\""
    )
    begun = time.monotonic()
    for answer in (
        sandbox.read(path),
        sandbox.download(path),
        sandbox.write(path, "x"),
        sandbox.upload(path, b"x"),
    ):
        assert refused(answer, "not_a_regular_file", "permission_denied"), answer
    assert time.monotonic() - begun < 2
    assert sandbox.out("test ! -f /dev/zero && test -c /dev/null && echo same") == "same\n"


def test_symlinks_lead_nowhere_but_inside(daemon: Daemon, sandbox: Sandbox) -> None:
    """Absolute ones, relative ones, through directories; read and written. The host's own file is a canary."""
    host = "/etc/passwd"
    with open(host, "rb") as file:
        before, information = file.read(), os.stat(host)
    climb = "../" * 40
    sandbox.out(
        f"echo inside >/etc/canary; ln -s /etc/canary /a; ln -s {climb}etc/canary /b; ln -s /etc /dir; ln -s {climb}etc /updir; "
        f"ln -s {daemon.state_dir} /state; ln -s /etc/passwd /p; ln -s loop /loop"
    )
    for path in ("/a", "/b", "/dir/canary", "/updir/canary"):
        assert sandbox.read(path).json["content"] == "inside\n", path
        assert sandbox.write(path, f"by {path}").status == 200
        assert sandbox.out("cat /etc/canary") == f"by {path}"
        sandbox.write("/etc/canary", "inside\n")
    assert sandbox.out("test -L /a && test -L /b && echo links") == "links\n"
    assert sandbox.read("/p").json["content"].encode() != before
    assert sandbox.write("/p", "evil").status == 200
    assert sandbox.upload("/dir/passwd", b"evil").status == 200
    assert sandbox.read("/state/nsbox.db").status == 404
    assert refused(sandbox.read("/loop"), "too_many_links")
    assert refused(sandbox.write("/loop", "x"), "too_many_links")
    with open(host, "rb") as file:
        assert file.read() == before
    assert os.stat(host).st_mtime_ns == information.st_mtime_ns
    assert os.stat(host).st_ino == information.st_ino


@pytest.mark.parametrize(
    "path",
    ["/proc/1/root/etc/passwd", "/proc/self/root/etc/passwd", "/proc/self/fd/0", "/proc/self/fd/3", "/proc/self/fd/4",
     "/proc/self/cwd/x", "/proc/self/exe", "/proc/1/exe", "/proc/1/cwd/x", "/proc/thread-self/root/etc/passwd",
     "/dev/fd/3", "/dev/stdin", "/magic/etc/passwd", "/proc/1/environ", "/proc/1/maps", "/proc/1/mem"],
)  # fmt: skip
def test_proc_leads_nowhere(sandbox: Sandbox, path: str) -> None:
    """Magic links would be those of the process that opens for us, and process 1 shows nothing of itself."""
    sandbox.out("ln -s /proc/1/root /magic; (ls -A / && ls -la /usr/bin) | cksum >/tmp/before")
    for answer in (
        sandbox.read(path),
        sandbox.download(path),
        sandbox.write(path, "x"),
        sandbox.upload(path, b"x"),
    ):
        assert 400 <= answer.status < 500, answer
    listed = sandbox.files("GET", path, list="true")
    assert 400 <= listed.status < 500, listed
    assert (
        sandbox.out("(ls -A / && ls -la /usr/bin) | cksum | cmp - /tmp/before && echo untouched")
        == "untouched\n"
    )


@pytest.mark.parametrize(
    "path",
    [
        "/proc/self/environ",
        "/proc/self/cmdline",
        "/proc/self/status",
        "/proc/self/mountinfo",
        "/proc/self/maps",
        "/proc/self/cgroup",
    ],
)
def test_the_agents_own_proc_tells_nothing_of_the_host(daemon: Daemon, sandbox: Sandbox, path: str) -> None:
    answer = sandbox.download(path)
    assert answer.status in (200, 403, 409), answer
    told = answer.body
    assert daemon.key is not None
    for secret in (b"host-environment-canary", daemon.key.encode(), b"NSBOX_", b"HOST_SECRET"):
        assert secret not in told
    if path == "/proc/self/environ" and answer.status == 200:
        print(f"/proc/self/environ of the file agent: {told!r}")
        assert {pair.partition(b"=")[0] for pair in told.split(b"\0") if pair} <= {b"PATH", b"LANG"}
    if path not in ("/proc/self/maps", "/proc/self/mountinfo"):
        assert daemon.state_dir.encode() not in told


def test_files_of_proc_and_sys_are_read_whole(sandbox: Sandbox) -> None:
    """They say that they are empty, and are not."""
    assert (
        sandbox.read("/proc/sys/kernel/hostname").json["content"].strip() == sandbox.out("hostname").strip()
    )
    assert sandbox.download("/proc/sys/kernel/ostype").body == b"Linux\n"
    assert sandbox.read("/proc/meminfo").json["content"].startswith("MemTotal")
    assert "lo" in sandbox.listing("/sys/class/net")["files"]


@pytest.mark.parametrize(
    "path",
    [
        "/proc/sys/kernel/hostname",
        "/proc/sysrq-trigger",
        "/sys/kernel/x",
        "/proc/new",
        "/sys/class/net/lo/mtu",
    ],
)
def test_proc_and_sys_are_not_written(sandbox: Sandbox, path: str) -> None:
    for answer in (sandbox.write(path, "1"), sandbox.upload(path, b"1"), sandbox.remove(path)):
        assert 400 <= answer.status < 500, answer


# ---- space


def test_no_space_is_said_and_leaves_nothing(sandbox: Sandbox) -> None:
    """/dev/shm has 64 MiB. 80 MB do not go in, by either way, and what did go in is gone again."""
    answer = sandbox.upload("/dev/shm/big", b"x" * 80_000_000)
    assert (answer.status, answer.code) == (409, "no_space"), answer
    assert sandbox.listing("/dev/shm")["files"] == []
    assert sandbox.upload("/dev/shm/most", b"x" * 60_000_000).status == 200
    answer = sandbox.write("/dev/shm/rest", "x" * 9_000_000)
    assert (answer.status, answer.code) == (409, "no_space"), answer
    assert sandbox.listing("/dev/shm")["files"] == ["most"]
    assert int(sandbox.out("df --output=used -B1 /dev/shm").split()[1]) < 61_000_000


def test_the_hosts_file_modes_are_not_ours_to_see(sandbox: Sandbox) -> None:
    """What a sandbox's root makes is root's inside and nobody's outside: never the daemon's."""
    sandbox.write("/tmp/f", "x")
    entry = next(one for one in sandbox.listing("/tmp")["entries"] if one["name"] == "f")
    assert (entry["uid"], entry["gid"]) == (0, 0)
    assert stat.S_IMODE(int(entry["mode"], 8)) == 0o644
