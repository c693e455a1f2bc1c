"""A key that ends takes with it whatever is under way with it, of every kind, within seconds."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest

from tests.e2e.client import BASE, Api, Sandbox
from tests.e2e.daemon import SLOWNESS, Daemon, wait_until
from tests.e2e.websocket import Lost, Socket

#: Within this everything has ended. What does not end goes on for longer by far.
PATIENCE = 30.0 * SLOWNESS
_LONG_MS = 300_000
#: More than all buffers between two sockets hold.
_LARGE = 256 << 20
_REASON = "the key is in force no more"


class Under(NamedTuple):
    """Where a test's requests go to."""

    sandbox: Sandbox
    process: str
    silent: str  # a registry that says nothing
    key: str

    @property
    def path(self) -> str:
        return f"/sandboxes/{self.sandbox.id}"


class Open:
    """A request on a connection of its own, byte by byte."""

    def __init__(self, api: Api) -> None:
        self._sock = socket.create_connection((api.host, api.port), timeout=PATIENCE)
        # Little is taken in that is not read, so that the daemon still has most of it.
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        self.seen = b""

    def ask(self, under: Under, method: str, path: str, body: Any = None, *headers: str) -> Open:
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"{method} {BASE}{path} HTTP/1.1", "Host: x", f"Authorization: Bearer {under.key}", *headers]
        if not any(line.startswith("Content-Length") for line in lines):
            lines.append(f"Content-Length: {len(data)}")
        self._sock.sendall("\r\n".join([*lines, "", ""]).encode() + data)
        return self

    def until(self, word: bytes) -> Open:
        while word not in self.seen:
            piece = self._sock.recv(65536)
            assert piece, self.seen[-2000:]
            self.seen += piece
        return self

    def rest(self) -> tuple[bytes, int]:
        """What was seen of it, and how many bytes came until its end."""
        count = len(self.seen)
        while True:
            piece = self._sock.recv(1 << 20)
            if not piece:
                return self.seen, count
            count += len(piece)
            if len(self.seen) < 65536:
                self.seen += piece

    def close(self) -> None:
        self._sock.close()


Begin = Callable[[Open, Under], Open]


def events_of_exec(one: Open, under: Under) -> Open:
    order = {"command": "sleep 7400", "timeoutMs": _LONG_MS}
    return one.ask(under, "POST", f"{under.path}/exec?stream=true", order).until(b"event: started")


def events_of_a_log(one: Open, under: Under) -> Open:
    path = f"{under.path}/processes/{under.process}/logs?follow=true"
    return one.ask(under, "GET", path).until(b"event: started")


def bytes_of_a_log(one: Open, under: Under) -> Open:
    path = f"{under.path}/processes/{under.process}/logs?follow=true&raw=true"
    return one.ask(under, "GET", path).until(b"hello")


def download(one: Open, under: Under) -> Open:
    return one.ask(under, "GET", f"{under.path}/files?raw=true&path=/root/large").until(b"\0")


def download_with_a_ticket(one: Open, under: Under) -> Open:
    made = under.sandbox.request("POST", "/files/ticket?path=/root/large", key=under.key)
    path = made.json["path"]
    one._sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return one.until(b"\0")


def export(one: Open, under: Under) -> Open:
    return one.ask(under, "GET", "/images/export?image=default&format=tar").until(b"ustar")


def pull_with_progress(one: Open, under: Under) -> Open:
    wish = {"image": f"{under.silent}/a:1"}
    return one.ask(under, "POST", "/images", wish, "Accept: text/event-stream").until(b"event: progress")


#: Answers that have begun: they are broken off, so that nobody takes them for whole.
STREAMS: list[Begin] = [
    events_of_exec,
    events_of_a_log,
    bytes_of_a_log,
    download,
    download_with_a_ticket,
    pull_with_progress,
]


def exec_that_lasts(one: Open, under: Under) -> Open:
    return one.ask(under, "POST", f"{under.path}/exec", {"command": "sleep 7400", "timeoutMs": _LONG_MS})


def wait_for_a_process(one: Open, under: Under) -> Open:
    return one.ask(under, "GET", f"{under.path}/processes/{under.process}/wait?timeoutMs={_LONG_MS}")


def upload(one: Open, under: Under) -> Open:
    path = f"{under.path}/files?path=/root/half"
    kind = "Content-Type: application/octet-stream"
    return one.ask(under, "PUT", path, b"x" * 1000, kind, "Content-Length: 100000")


def archive(one: Open, under: Under) -> Open:
    path = "/images/import?name=half"
    return one.ask(under, "POST", path, b"x" * 1000, "Content-Length: 100000")


def pull(one: Open, under: Under) -> Open:
    return one.ask(under, "POST", "/images", {"image": f"{under.silent}/b:1"})


def create_from_an_image(one: Open, under: Under) -> Open:
    return one.ask(under, "POST", "/sandboxes", {"image": f"{under.silent}/c:1"})


def stdin_that_is_not_read(one: Open, under: Under) -> Open:
    path = f"{under.path}/processes/{under.process}/stdin?timeoutMs={_LONG_MS}"
    return one.ask(under, "POST", path, b"x" * (1 << 19), "Content-Type: application/octet-stream")


#: Requests without an answer yet: they get one, which is no other than a new request would.
WAITING: list[Begin] = [
    exec_that_lasts,
    wait_for_a_process,
    upload,
    archive,
    pull,
    create_from_an_image,
    stdin_that_is_not_read,
]


@pytest.fixture(scope="module")
def sandbox(daemon: Daemon) -> Iterator[Sandbox]:
    with daemon.api() as api:
        made = api.sandbox()
        made.out(f"truncate -s {_LARGE} /root/large")
        yield made
        api.close()
        assert api.kill(made.id).status == 200


@pytest.fixture(scope="module")
def silent() -> Iterator[str]:
    """A registry that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        yield f"127.0.0.1:{one.getsockname()[1]}"


@contextmanager
def begun(api: Api, sandbox: Sandbox, silent: str, **wish: Any) -> Iterator[tuple[Under, str]]:
    """What a test's requests go to, with a key of its own; the key's id."""
    made = api.request("POST", "/keys", {"name": "victim", **wish}).json
    order = {"command": "echo hello; exec sleep 7401", "stdin": "open"}
    process = sandbox.request("POST", "/processes", order).json["id"]
    try:
        yield Under(sandbox, process, silent, made["key"]), made["id"]
    finally:
        assert api.request("DELETE", f"/keys/{made['id']}").status == 200
        assert sandbox.request("DELETE", f"/processes/{process}").status == 200


@pytest.mark.parametrize("begin", STREAMS, ids=lambda one: one.__name__)
def test_a_stream_is_broken_off(api: Api, sandbox: Sandbox, silent: str, begin: Begin) -> None:
    with begun(api, sandbox, silent) as (under, key_id), closing(Open(api)) as one:
        assert begin(one, under).seen.startswith(b"HTTP/1.1 200 ")
        with closing(Open(api)) as beside:
            bytes_of_a_log(beside, under)
            assert api.request("DELETE", f"/keys/{key_id}").status == 200
            beside.rest()  # all is cut in one go: now the other is, too
        begun_at = time.monotonic()
        seen, count = one.rest()
        assert time.monotonic() - begun_at < PATIENCE
        assert not seen.endswith(b"0\r\n\r\n"), "it has ended as if it were whole"
        assert count < _LARGE


@pytest.mark.parametrize("begin", WAITING, ids=lambda one: one.__name__)
def test_who_waits_is_told(api: Api, sandbox: Sandbox, silent: str, begin: Begin) -> None:
    with begun(api, sandbox, silent) as (under, key_id), closing(Open(api)) as one:
        begin(one, under)
        # Nothing tells from outside that it has begun. One that came later would be refused as well, so this
        # can make the test see too little on a very slow day, and never fail.
        time.sleep(0.3)
        assert api.request("DELETE", f"/keys/{key_id}").status == 200
        seen = one.until(b"\r\n\r\n").until(b"}").seen
        assert (seen[:13], b'"invalid_key"' in seen) == (b"HTTP/1.1 401 ", True), seen
    assert sandbox.read("/root/half").status == 404
    assert [one for one in api.request("GET", "/sandboxes").json if silent in one["templateId"]] == []


def test_a_silent_terminal_is_closed(api: Api, sandbox: Sandbox, silent: str) -> None:
    with begun(api, sandbox, silent) as (under, key_id):
        url = f"http://{api.host}:{api.port}{BASE}"
        path = f"{under.path}/processes/{under.process}/attach"
        terminal = Socket(url, path, [("Authorization", f"Bearer {under.key}")], PATIENCE)
        list(terminal.receive())
        assert api.request("DELETE", f"/keys/{key_id}").status == 200
        with pytest.raises(Lost, match=_REASON):
            while True:
                list(terminal.receive())
        terminal.close()


def test_expiry_ends_it_as_well(api: Api, sandbox: Sandbox, silent: str) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=4 * SLOWNESS)).isoformat().replace("+00:00", "Z")
    with begun(api, sandbox, silent, expiresAt=soon) as (under, _), closing(Open(api)) as one:
        seen, _ = bytes_of_a_log(one, under).rest()
        assert not seen.endswith(b"0\r\n\r\n")


def test_so_does_an_end_of_the_user_on_the_command_line(daemon: Daemon, api: Api, silent: str) -> None:
    """Another process does it, and tells nobody."""
    user = api.request("POST", "/users", {"name": "disabled soon"}).json["id"]
    acting = {"Nsbox-User": user}
    key = api.request("POST", "/keys", {"name": "hers"}, headers=acting).json["key"]
    with daemon.api(key) as hers:
        sandbox = hers.sandbox()
        process = sandbox.request("POST", "/processes", {"command": "echo hello; exec sleep 7402"}).json["id"]
        with closing(Open(hers)) as one:
            bytes_of_a_log(one, Under(sandbox, process, silent, key))
            assert daemon.nsbox_on_state("users", "disable", user).returncode == 0
            assert not one.rest()[0].endswith(b"0\r\n\r\n")
    gone = api.request("DELETE", f"/sandboxes/{sandbox.id}", headers=acting)
    assert gone.json["status"] == "stopped"
    assert api.request("DELETE", f"/users/{user}").status == 200


def test_a_key_that_revokes_itself_is_told_so(api: Api) -> None:
    made = api.request("POST", "/keys", {"name": "suicidal"}).json
    told = api.request("DELETE", f"/keys/{made['id']}", key=made["key"])
    assert (told.status, told.json["revokedAt"] is not None) == (200, True)


def test_a_command_on_a_leash_ends_with_the_key(api: Api, sandbox: Sandbox, silent: str) -> None:
    with begun(api, sandbox, silent) as (under, key_id), closing(Open(api)) as one:
        order = {"command": "sleep 7403", "timeoutMs": _LONG_MS}
        wish = f"{under.path}/exec?stream=true&onDisconnect=kill"
        one.ask(under, "POST", wish, order).until(b"event: started")
        assert api.request("DELETE", f"/keys/{key_id}").status == 200
        wait_until(lambda: "sleep 7403" not in sandbox.out("ps -eo args"), 20, "the end of the command")
