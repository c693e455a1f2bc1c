"""Input that commands do not read, or do later: it waits on disk, and api holds a piece of each."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.e2e.client import BASE, Sandbox
from tests.e2e.daemon import SLOWNESS, Daemon, open_files, wait_until

MIB = 1 << 20
#: Whole, they are 320 MiB, and 150.
EXECS, WRITES = 40, 150
#: What they may cost: a piece of each, and what reading and decoding a few at a time has left behind.
MOST_KIB, MOST_OF_WRITES_KIB = 22 * 1024, 120 * 1024
_INPUT = random.Random(1).randbytes(8 * MIB)
_WAIT = "touch /tmp/began.$$; until test -e /tmp/go; do sleep 0.1; done; sha256sum"


@pytest.fixture
def box(own_daemon: Daemon) -> Iterator[Sandbox]:
    with own_daemon.api() as api:
        made = api.sandbox()
        yield made
        api.kill(made.id)


def _send(daemon: Daemon, stack: ExitStack, path: str, kind: str, body: bytes) -> socket.socket:
    host, port = daemon.url.removeprefix("http://").split(":")
    sock = stack.enter_context(socket.create_connection((host, int(port)), 60 * SLOWNESS))
    head = f"POST {BASE}{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    told = f"Authorization: Bearer {daemon.key}\r\nContent-Type: {kind}\r\n\r\n"
    sock.sendall((head + told).encode() + body)
    return sock


def _answer(sock: socket.socket) -> tuple[int, dict[str, object]]:
    response = http.client.HTTPResponse(sock)
    response.begin()
    return response.status, json.loads(response.read())


def test_stdin_that_no_command_reads_is_not_in_memory(own_daemon: Daemon, box: Sandbox) -> None:
    """And when they read, they read all of it."""
    asked = {"command": _WAIT, "stdinBase64": base64.b64encode(_INPUT).decode(), "timeoutMs": 120_000}
    body = json.dumps(asked).encode()
    before = own_daemon.rss_kib()
    with ExitStack() as stack:
        path = f"/sandboxes/{box.id}/exec"
        socks = [_send(own_daemon, stack, path, "application/json", body) for _ in range(EXECS)]
        wait_until(lambda: int(box.out("ls /tmp | grep -c began || :")) == EXECS, 60, "all have begun")
        grown = own_daemon.rss_kib() - before
        print(f"\n{EXECS} x 8 MiB of stdin that nobody reads: api {grown / 1024:+.0f} MiB")
        box.out("touch /tmp/go")
        for sock in socks:
            status, told = _answer(sock)
            assert (status, told["stdout"]) == (200, f"{hashlib.sha256(_INPUT).hexdigest()}  -\n")
    assert grown < MOST_KIB, grown


def test_what_is_written_to_a_stdin_and_waits_is_not_in_memory(own_daemon: Daemon, box: Sandbox) -> None:
    command = "until test -e /tmp/go; do sleep 0.1; done; wc -c >/tmp/count"
    process = box.request("POST", "/processes", {"command": command, "stdin": "open"}).json["id"]
    path = f"/sandboxes/{box.id}/processes/{process}/stdin?timeoutMs=60000"
    before = own_daemon.rss_kib()
    with ExitStack() as stack:
        raw = "application/octet-stream"
        socks = [_send(own_daemon, stack, path, raw, _INPUT[:MIB]) for _ in range(WRITES)]
        wait_until(lambda: _waiting(own_daemon) >= WRITES - 1, 60, "all wait")
        grown = own_daemon.rss_kib() - before
        print(f"\n{WRITES} x 1 MiB written to a stdin that nobody reads: api {grown / 1024:+.0f} MiB")
        box.out("touch /tmp/go")
        assert {_answer(sock)[0] for sock in socks} == {200}
    assert box.request("POST", f"/processes/{process}/stdin?close=true").status == 200
    assert box.request("GET", f"/processes/{process}/wait?timeoutMs=60000").json["status"] == "exited"
    assert int(box.out("cat /tmp/count")) == WRITES * MIB
    assert grown < MOST_OF_WRITES_KIB, grown


def _waiting(daemon: Daemon) -> int:
    """Files without a name that api holds."""
    return sum(one.endswith("(deleted)") for one in open_files(daemon.api_pid))
