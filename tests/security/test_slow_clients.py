"""A thousand clients that send heads or bodies, or read answers, slowly; and the others."""

from __future__ import annotations

import os
import re
import time
from typing import NamedTuple

import pytest

from tests.acceptance.plugin import Say
from tests.conftest import DaemonFactory
from tests.e2e.client import BASE
from tests.e2e.daemon import SLOWNESS, Daemon, wait_until
from tests.security.crowd import Address, Crowd, Others, Slow, descriptors_for

COUNT = 1_000
#: How long the others are watched, with the crowd there.
WATCHED_S = 3.0
#: What one slow client may cost in api, in KiB: its connection, its task, what it was sent or sent.
EACH_KIB = 150
_LONG = ("body without a key", "head to previews")


class World(NamedTuple):
    daemon: Daemon
    address: Address
    previews: Address
    slow_key: str
    slow_sandbox: str
    key: str
    sandbox: str


@pytest.fixture(scope="module")
def world(own_daemon: Daemon) -> World:
    keys = []
    for name in ("slow", "other"):
        assert own_daemon.nsbox_on_state("users", "create", name).returncode == 0
        made = own_daemon.nsbox_on_state("keys", "create", name, "--user", name)
        assert made.returncode == 0, made.stderr
        keys.append(made.stdout.strip())
    with own_daemon.api(keys[0]) as slow, own_daemon.api(keys[1]) as other:
        sandbox = slow.sandbox()
        assert sandbox.exec("truncate -s 1G /tmp/large").json["exitCode"] == 0
        host, port = own_daemon.url.removeprefix("http://").split(":")
        previews = next(
            found[1] for line in own_daemon.printed if (found := re.search(r"previews: .*:(\d+)", line))
        )
        own = other.create()
        return World(own_daemon, (host, int(port)), (host, int(previews)), keys[0], sandbox.id, keys[1], own)


def slow(world: World, kind: str) -> Slow:
    def head(method: str, below: str) -> bytes:
        path = f"{BASE}/sandboxes/{world.slow_sandbox}{below}"
        return f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {world.slow_key}\r\n".encode()

    if kind in ("head", "head to previews"):
        return Slow(b"GET / HTTP/1.1\r\nHost: x\r\n", b"A: b\r\n")
    if kind == "body":
        return Slow(head("POST", "/exec") + b'Content-Length: 60000\r\n\r\n{"command":"', b"x")
    if kind == "body without a key":
        return Slow(b"POST /api/v1/sandboxes HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n", b"x")
    if kind == "upgrade":
        path = f"{BASE}/sandboxes/x/processes/y/attach"
        told = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 7"
        return Slow(f"GET {path} HTTP/1.1\r\nHost: x\r\n{told}\r\n\r\n".encode())
    return Slow(head("GET", "/files?path=/tmp/large&raw=true") + b"\r\n", window=4096)


@pytest.mark.parametrize(
    "kind", ["head", "body", "reader", "upgrade", "body without a key", "head to previews"]
)
def test_the_others_are_served(world: World, kind: str, figure: Say) -> None:
    """Within a second; where a machine is too busy for that even without a crowd, not much later than so."""
    if kind in _LONG and "NSBOX_SOAK" not in os.environ:
        pytest.skip("only with NSBOX_SOAK")
    daemon = world.daemon
    before = daemon.residue().api_fds
    start = daemon.rss_kib()
    path = f"{BASE}/sandboxes/{world.sandbox}"
    alone, others = Others(world.address, world.key, path), Others(world.address, world.key, path)
    with alone.at_work():
        time.sleep(0.7)
    address = world.previews if kind == "head to previews" else world.address
    with descriptors_for(COUNT) as count:
        crowd = Crowd(address, slow(world, kind), count)
        wait_until(lambda: settled(world), 60, "the crowd to be let in")
        try:
            with others.at_work():
                until = time.monotonic() + WATCHED_S
                while time.monotonic() < until:
                    crowd.drip()
                    time.sleep(0.25)
            grown = daemon.rss_kib() - start
            line = f"slow {kind} x {count}: {others.line()}, api {grown / 1024:+.0f} MiB, {crowd.cut} cut"
            print(f"\n{line}; alone: p99 = {alone.p99 * 1000:.0f} ms")
        finally:
            crowd.close()
    figure(11, "the others", tried=count, bad=len(others.errors), p99_s=others.p99, p99_alone_s=alone.p99)
    assert others.p99 < max(1.0 * SLOWNESS, 10 * alone.p99), line
    assert grown < count * EACH_KIB, line
    wait_until(lambda: daemon.residue().api_fds <= before + 5, 60, "descriptors of the crowd")


def test_large_bodies_that_come_slowly(own_daemon: Daemon) -> None:
    """Five users, each with as many large bodies as one may send at once, of which the end does not come:
    another's comes through, and api's memory has none of them."""
    host, port = own_daemon.url.removeprefix("http://").split(":")
    size, users, each = 4 << 20, 5, 4
    crowds = []
    with own_daemon.api() as api:
        box = api.sandbox()
        box.write("/tmp/first", "x" * 200_000)  # what that needs is there
        before = own_daemon.rss_kib()
        try:
            for number in range(users):
                name = f"sends-slowly-{number}"
                assert own_daemon.nsbox_on_state("users", "create", name).returncode == 0
                made = own_daemon.nsbox_on_state("keys", "create", name, "--user", name)
                told = f"Authorization: Bearer {made.stdout.strip()}\r\nContent-Length: {size + 1}\r\n\r\n"
                head = f"PUT {BASE}/sandboxes/x/files?path=/x HTTP/1.1\r\nHost: x\r\n{told}"
                crowds.append(Crowd((host, int(port)), Slow(head.encode() + b" " * size), each))
            # The sockets hold some of what was sent; and it takes a moment to be read.
            wait_until(lambda: spooled(own_daemon) >= users * each * size * 3 // 4, 60, "bodies on disk")
            grown = own_daemon.rss_kib() - before
            box.write("/tmp/other", "y" * 2_000_000)
            assert box.out("wc -c </tmp/other").strip() == "2000000"
        finally:
            for crowd in crowds:
                crowd.close()
    print(f"\nslow large bodies: {users * each} of {size >> 20} MiB, api {grown / 1024:+.0f} MiB")
    assert grown < 40 * 1024
    wait_until(lambda: not spooled(own_daemon), 60, "the disk is given back")


def spooled(daemon: Daemon) -> int:
    """Bytes in files of api that have no name."""
    total = 0
    for name in os.listdir(f"/proc/{daemon.api_pid}/fd"):
        path = f"/proc/{daemon.api_pid}/fd/{name}"
        try:
            if os.readlink(path).startswith(f"{daemon.state_dir}/#"):
                total += os.stat(path).st_size
        except FileNotFoundError:
            continue
    return total


def settled(world: World) -> bool:
    """Whether what stood before the door is in: an answer is there within half a second."""
    begun = time.monotonic()
    with world.daemon.api(world.key) as api:
        assert api.request("GET", f"/sandboxes/{world.sandbox}").status == 200
    return time.monotonic() - begun < 0.5 * SLOWNESS


def test_a_slow_tenant_has_so_many_requests_and_no_more(daemon_factory: DaemonFactory) -> None:
    """Behind one address, where a reverse proxy may be, it is the user who is counted."""
    daemon = daemon_factory(settings={"user_requests": "5", "max_connections": "100"})
    assert daemon.nsbox_on_state("users", "create", "slow").returncode == 0
    key = daemon.nsbox_on_state("keys", "create", "slow", "--user", "slow").stdout.strip()
    host, port = daemon.url.removeprefix("http://").split(":")
    bearer = f"Authorization: Bearer {key}\r\nContent-Length: 9"
    told = f"POST {BASE}/sandboxes HTTP/1.1\r\nHost: x\r\n{bearer}\r\n\r\n{{"
    crowd = Crowd((host, int(port)), Slow(told.encode()), 60)
    try:
        with daemon.api(key) as hers, daemon.api() as other:
            wait_until(lambda: hers.request("GET", "/sandboxes").status == 429, 10, "the bound of a user")
            answer = hers.request("GET", "/sandboxes")
            assert (answer.status, answer.code) == (429, "too_many_requests")
            for _ in range(20):
                assert other.request("GET", "/sandboxes").status == 200
                other.close()
    finally:
        crowd.close()
