"""Webhooks of a real daemon: a receiver on the loopback, which only `private` allows."""

from __future__ import annotations

import hashlib
import hmac
import http.server
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.conftest import DaemonFactory
from tests.e2e.daemon import SLOWNESS, Daemon, wait_until
from tests.e2e.test_usage import need_a_freezer, plans, status

SECRET = "0123456789abcdef-of-the-webhook"


class Call(NamedTuple):
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def told(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


class Receiver:
    """``status`` is what it answers, with a Location."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.status = 204
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.calls.append(Call(self.path, dict(self.headers.items()), body))
                self.send_response(outer.status)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    one = Receiver()
    yield one
    one.close()


@pytest.fixture
def secret_file() -> Iterator[str]:
    """Where the daemon's account can read it."""
    path = Path(f"/var/tmp/nsbox-test-secret-{os.getpid()}")
    path.write_text(SECRET)
    path.chmod(0o644)
    yield str(path)
    path.unlink()


def hooked(daemon_factory: DaemonFactory, **hooks: dict[str, Any]) -> Daemon:
    return daemon_factory(settings={"webhooks": json.dumps(hooks)})


def kinds(receiver: Receiver) -> list[str]:
    return [call.told["event"] for call in receiver.calls]


def check_signature(call: Call) -> None:
    timestamp = call.headers["Nsbox-Timestamp"]
    signed = timestamp.encode() + b"." + call.body
    expected = hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
    assert call.headers["Nsbox-Signature"] == f"v1={expected}"
    assert abs(time.time() - int(timestamp)) < 300
    assert call.headers["Nsbox-Delivery"] == call.told["id"]
    assert call.headers["Nsbox-Event"] == call.told["event"]


def test_what_happens_is_told(daemon_factory: DaemonFactory, receiver: Receiver, secret_file: str) -> None:
    url = f"http://127.0.0.1:{receiver.port}/hook?x=1"
    daemon = hooked(
        daemon_factory,
        here={"url": url, "secret_file": secret_file, "private": True},
        # The same receiver by a name, without leave: nobody is connected to.
        refused={"url": f"https://localhost:{receiver.port}/refused", "secret_file": secret_file},
    )
    with daemon.api() as api:
        killed = api.sandbox(envVars={"TOKEN": "canary-of-the-webhook"})
        expired = api.sandbox(timeoutMs=1000)
        assert api.kill(killed.id).status == 200
        wait_until(lambda: sorted(kinds(receiver)) == ["created", "created", "expired", "killed"], 30, "all")
    for call in receiver.calls:
        check_signature(call)
        assert call.path == "/hook?x=1"
        assert b"canary" not in call.body
    by_event = {(call.told["event"], call.told["sandboxId"]): call.told for call in receiver.calls}
    assert by_event["killed", killed.id]["reason"] == "killed"
    assert by_event["expired", expired.id]["status"] == "stopped"
    wait_until(lambda: "webhook refused: evt_" in daemon.log(), 20, "the refusal is logged")
    assert "its address is not a public one" in daemon.log()
    assert SECRET not in daemon.log()


def test_redirects_are_not_followed_and_what_failed_comes_again(
    daemon_factory: DaemonFactory, receiver: Receiver, secret_file: str
) -> None:
    receiver.status = 307
    url = f"http://127.0.0.1:{receiver.port}/hook"
    daemon = hooked(
        daemon_factory,
        here={"url": url, "secret_file": secret_file, "private": True, "events": ["created"]},
    )
    with daemon.api() as api:
        made = api.sandbox()
        wait_until(lambda: len(receiver.calls) == 1, 20, "the first try")
        daemon.kill(daemon.api_pid, signal.SIGKILL)  # what waits is on disk
        daemon.wait_ready()
        receiver.status = 200
        wait_until(lambda: len(receiver.calls) >= 2, 40, "the second")
        assert api.kill(made.id).status == 200
    assert {call.path for call in receiver.calls} == {"/hook"}
    assert len({call.told["id"] for call in receiver.calls}) == 1
    for call in receiver.calls:
        check_signature(call)


def test_who_runs_out_of_seconds_is_told_of(
    daemon_factory: DaemonFactory, receiver: Receiver, secret_file: str
) -> None:
    """Once, whatever runs: the sandboxes stand still, and a new one is refused until the month is over."""
    url = f"http://127.0.0.1:{receiver.port}/hook"
    here = {"url": url, "secret_file": secret_file, "private": True, "events": ["quota", "paused"]}
    daemon = daemon_factory(
        settings={"webhooks": json.dumps({"here": here}), **plans(compute_seconds=int(12 * SLOWNESS))}
    )
    with daemon.api() as api:
        me = api.request("GET", "/me").json
        boxes = [api.sandbox(), api.sandbox()]
        need_a_freezer(boxes[0])  # which is told, too
        wait_until(lambda: {status(api, one) for one in boxes} == {"paused"}, 60, "both are paused")
        wait_until(lambda: sorted(kinds(receiver)) == [*["paused"] * 3, "quota"], 60, "all is told")
        refused = api.request("POST", "/sandboxes")
        assert (refused.status, refused.code) == (402, "quota_exhausted")
        assert refused.json["renewsAt"] == me["usage"]["periodEnd"]
        assert [status(api, one) for one in boxes] == ["paused", "paused"]
        for one in boxes:
            assert api.kill(one.id).status == 200
    for call in receiver.calls:
        check_signature(call)
    quota = next(call.told for call in receiver.calls if call.told["event"] == "quota")
    assert (quota["userId"], quota.get("sandboxId")) == (me["user"]["id"], None)
    paused = [call.told for call in receiver.calls if call.told["event"] == "paused"]
    assert {told["sandboxId"] for told in paused if told["reason"] == "quota"} == {one.id for one in boxes}
