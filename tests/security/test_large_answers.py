"""Answers that are large, and taken slowly or not at all: api holds a piece of each."""

from __future__ import annotations

import http.client
import json
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.e2e.client import BASE, Sandbox
from tests.e2e.daemon import SLOWNESS, Daemon

#: What a command may write, as ``output_limit_bytes`` has it: ten of each stream are kept.
MIB = 1 << 20
#: So many ask at once. Whole, each of their answers is 120 MiB: JSON has six bytes for a zero.
READERS = 6
#: What they may cost together; whole they are 720 MiB.
MOST_KIB = 120 * 1024

FLOOD = "head -c 10485760 /dev/zero; head -c 10485760 /dev/zero >&2"


@pytest.fixture(scope="module")
def box(own_daemon: Daemon) -> Iterator[Sandbox]:
    with own_daemon.api() as api:
        made = api.sandbox()
        assert made.run("head -c 10485760 /dev/zero > /tmp/zeros")["exitCode"] == 0
        yield made


@contextmanager
def begun(daemon: Daemon, requests: list[bytes]) -> Iterator[list[socket.socket]]:
    """A connection for each, whose answer has begun, and that reads nothing of it."""
    host, port = daemon.url.removeprefix("http://").split(":")
    with ExitStack() as stack:
        socks = []
        for request in requests:
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.settimeout(60 * SLOWNESS)
            sock.connect((host, int(port)))
            sock.sendall(request)
            socks.append(sock)
        waiting, until = set(socks), time.monotonic() + 60 * SLOWNESS
        while waiting:
            assert time.monotonic() < until, f"{len(waiting)} answers do not begin"
            waiting -= set(select.select(list(waiting), [], [], 1)[0])
        yield socks


def request(daemon: Daemon, box: Sandbox, kind: str) -> bytes:
    method, below, body = "GET", "/files?path=/tmp/zeros&encoding=utf8", b""
    if kind == "exec":
        method, below, body = "POST", "/exec", json.dumps({"command": FLOOD}).encode()
    head = f"{method} {BASE}/sandboxes/{box.id}{below} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    told = f"Authorization: Bearer {daemon.key}\r\nContent-Type: application/json\r\n"
    return f"{head}{told}Content-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize("kind", ["exec", "file", "log"])
def test_who_does_not_read_has_no_answer_in_memory(own_daemon: Daemon, box: Sandbox, kind: str) -> None:
    asked = request(own_daemon, box, "exec" if kind == "exec" else "file")
    if kind == "log":
        started = box.request("POST", "/processes", {"command": FLOOD}).json["id"]
        assert box.request("GET", f"/processes/{started}/wait?timeoutMs=60000").json["status"] == "exited"
        page = f"/processes/{started}/logs?limit={10 * MIB}".encode()
        asked = asked.replace(b"/files?path=/tmp/zeros&encoding=utf8", page)
    before = own_daemon.rss_kib()
    with begun(own_daemon, [asked] * READERS) as socks:
        grown = own_daemon.rss_kib() - before
        print(f"\n{READERS} large answers ({kind}) that nobody reads: api {grown / 1024:+.0f} MiB")
        answer = http.client.HTTPResponse(socks[0])
        answer.begin()
        told = json.loads(answer.read())  # and who reads gets all of it, with the others there
    assert answer.status == 200
    if kind == "log":
        data = "".join(chunk["data"] for chunk in told["chunks"])
        assert told["nextOffset"] - told["offset"] >= 10 * MIB
    else:
        data = told["stdout"] if kind == "exec" else told["content"]
    assert data.count("\0") == len(data) >= 10 * MIB
    assert grown < MOST_KIB, grown
