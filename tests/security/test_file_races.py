# ruff: noqa: E501 - what runs inside a sandbox is clearest as the line that somebody would type
"""The file API against somebody inside who swaps files, directories and symlinks under it all the time.

Canaries lie outside of every sandbox, where the daemon's own user may read and write: had the daemon itself
resolved one path, they would be read or changed.
"""

from __future__ import annotations

import http.client
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from tests.acceptance.plugin import Say
from tests.e2e.client import Answer, Sandbox
from tests.e2e.daemon import SLOWNESS, Daemon

OPERATIONS = 2_400
BOUND_S = 60.0
SECRET = b"canary-of-the-host"
INSIDE = "from inside"

#: Swaps, as quickly as it can: a file and a symlink, a directory and a symlink, by rename, which is atomic.
RACER = """
import os, sys
canary, folder, climb = sys.argv[1], os.path.dirname(sys.argv[1]), "../" * 40
os.makedirs("/work/real", exist_ok=True)
os.makedirs(folder, exist_ok=True)  # the same path inside: what a right answer finds there

def put(path, text):
    with open(path, "w") as file:
        file.write(text)

def swap(name, make):
    try:
        make(name + ".new")
        if os.path.isdir(name) and not os.path.islink(name):
            os.rename(name, name + ".old" + str(os.getpid()))
        os.rename(name + ".new", name)
    except OSError:
        pass

targets = [canary, climb + canary[1:], "/etc/hostname", climb + "etc/hostname", "/proc/1/root" + canary,
           "/proc/self/fd/3", "real/f", "/proc/self/root" + canary]
directories = [folder, climb + folder[1:], "/etc", "/proc/1/root/etc", "/proc/self/fd", "/"]
number = 0
while True:
    number += 1
    try:
        put(canary, "from inside"); put("/etc/hostname", "from inside")
        swap("/work/f", lambda name: put(name, "from inside"))
        swap("/work/f", lambda name: os.symlink(targets[number % len(targets)], name))
        swap("/work/d", lambda name: os.symlink(directories[number % len(directories)], name))
        os.unlink("/work/d")
        os.mkdir("/work/d"); put("/work/d/canary", "from inside"); put("/work/d/hostname", "from inside")
        os.rename("/work/d", "/work/d.old"); os.symlink(directories[number % len(directories)], "/work/d")
        for name in os.listdir("/work/d.old"): os.unlink("/work/d.old/" + name)
        os.rmdir("/work/d.old")
    except OSError:
        for name in ("/work/d", "/work/f", "/work/f.new", "/work/d.new"):
            try: os.unlink(name)
            except OSError: pass
        os.system("rm -rf /work/d.old /work/d.old*")
"""

PATHS = ("/work/f", "/work/d/canary", "/work/d/hostname")


class Canary(NamedTuple):
    """A file of the host, and how it was."""

    path: str
    content: bytes
    inode: int
    changed_ns: int

    @classmethod
    def of(cls, path: str) -> Canary:
        with open(path, "rb") as file:
            content = file.read()
        found = os.stat(path)
        return cls(path, content, found.st_ino, found.st_ctime_ns)


@pytest.fixture
def canaries(daemon: Daemon) -> Iterator[list[Canary]]:
    """In the daemon's state folder, its own; and the host's name. Both must be as they were."""
    path = os.path.join(daemon.state_dir, "canary")
    with open(path, "wb") as file:
        file.write(SECRET)
    os.chown(path, daemon.who.uid, daemon.who.gid)
    kept = [Canary.of(path), *([Canary.of("/etc/hostname")] if os.path.exists("/etc/hostname") else [])]
    yield kept
    try:
        assert [Canary.of(one.path) for one in kept] == kept
    finally:
        os.unlink(path)


def operations(sandbox: Sandbox) -> list[Callable[[str], Answer]]:
    return [
        lambda path: sandbox.read(path),
        lambda path: sandbox.write(path, "written by the API"),
        lambda path: sandbox.download(path),
        lambda path: sandbox.upload(path, b"streamed by the API"),
        lambda path: sandbox.remove(path),
        lambda path: sandbox.files("GET", os.path.dirname(path), list="true"),
        lambda path: sandbox.remove(os.path.dirname(path), recursive="true") if path.startswith("/work/d/") else sandbox.read(path),
    ]  # fmt: skip


def test_a_racer_leads_nobody_out(
    daemon: Daemon, sandbox: Sandbox, canaries: list[Canary], figure: Say
) -> None:
    sandbox.write("/racer.py", RACER)
    command = ["python3", "/racer.py", canaries[0].path]
    for _ in range(2):
        assert sandbox.request("POST", "/processes", {"command": command}).status == 201
    statuses: Counter[int] = Counter()
    hits: list[bytes] = []
    faults: list[str] = []
    deadline = time.monotonic() + BOUND_S
    secrets = [SECRET, *(one.content.strip() for one in canaries[1:])]

    def work(share: int) -> None:
        kinds = operations(sandbox)
        for turn in range(share):
            if time.monotonic() > deadline:
                return
            try:
                answer = kinds[turn % len(kinds)](PATHS[turn % len(PATHS)])
            except http.client.HTTPException:
                statuses[0] += 1  # a file that shrank while it was streamed: the connection says so
                continue
            statuses[answer.status] += 1
            hits.extend(secret for secret in secrets if secret and secret in answer.body)
            if answer.status >= 500:
                faults.append(str(answer))

    threads = [threading.Thread(target=work, args=[OPERATIONS // 3]) for _ in range(3)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - begun
    done = sum(statuses.values())
    print(
        f"file API against a racer: {done} operations in {took:.1f} s, hits = {len(hits)}, {dict(statuses)}"
    )
    figure(2, tried=done, bad=len(hits), seconds=took)
    assert hits == []
    assert faults[:3] == []
    assert done >= 2_000 / SLOWNESS
    assert statuses[200] > done / 20  # it was a race, and not only errors
    assert sandbox.request("DELETE", "/processes").status == 200
    assert daemon.api_pid


def test_a_parent_that_is_swapped_while_an_upload_runs(
    sandbox: Sandbox, canaries: list[Canary], figure: Say
) -> None:
    """The directory is held by a descriptor: the file lands in what it was when the upload began."""
    folder = os.path.dirname(canaries[0].path)
    sandbox.out(["mkdir", "-p", "/up", folder])

    def pieces() -> Iterator[bytes]:
        yield b"a" * 100_000
        # Not before the folder is open: bytes that were sent are not bytes that somebody has read.
        swap = f"until ls -A /up | grep -q nsbox; do sleep 0.05; done; mv /up /moved; ln -s {folder} /up"
        assert sandbox.run(swap, timeoutMs=60_000)["exitCode"] == 0
        yield b"b" * 100_000

    import http.client

    raw = http.client.HTTPConnection(sandbox.api.host, sandbox.api.port, timeout=30)
    headers = {"Authorization": f"Bearer {sandbox.api.key}", "Content-Type": "application/octet-stream"}
    try:
        raw.request(
            "PUT",
            f"/api/v1/sandboxes/{sandbox.id}/files?path=/up/canary",
            pieces(),
            headers,
            encode_chunked=True,
        )
        answer = raw.getresponse()
        body = answer.read()
    finally:
        raw.close()
    assert answer.status == 200, body
    assert sandbox.out("stat -c %s /moved/canary") == "200000\n"
    assert sandbox.read(canaries[0].path).status == 404
    figure(2, tried=1)
