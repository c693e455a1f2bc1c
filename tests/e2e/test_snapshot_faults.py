"""Snapshots and forks that something happens to: nothing half-made stays, and nobody is left standing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import time
from collections.abc import Iterator

import pytest

from nsbox.host import facts
from nsbox.host.storage import TMPFS_KERNEL
from tests.conftest import DaemonFactory
from tests.e2e.client import Api, Sandbox
from tests.e2e.daemon import Daemon, descendants, wait_until

#: Enough to be in the middle of it for some tenths of a second and more.
_MANY = """
import os
for folder in range(80):
    os.makedirs(f"/many/{folder}")
    for number in range(100):
        with open(f"/many/{folder}/{number}", "wb") as file: file.write(b"x" * 3000)
"""


def layers(daemon: Daemon) -> list[str]:
    """Those of snapshots and forks, whole or not."""
    return [name for name in os.listdir(f"{daemon.state_dir}/layers") if name.startswith("s-")]


def with_many_files(api: Api) -> Sandbox:
    sandbox = api.sandbox()
    answer = sandbox.exec(["python3", "-c", _MANY], timeoutMs=120_000)
    assert answer.json["exitCode"] == 0, answer.json
    return sandbox


@contextlib.contextmanager
def begun(sandbox: Sandbox, path: str = "/snapshots", wish: object = None) -> Iterator[socket.socket]:
    """A request that is sent once, whatever becomes of it; the connection closes with the block."""
    api, body = sandbox.api, json.dumps(wish or {}).encode()
    with socket.create_connection((api.host, api.port), 60) as connection:
        connection.sendall(
            f"POST /api/v1/sandboxes/{sandbox.id}{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            f"Authorization: Bearer {api.key}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        yield connection


def answered(connection: socket.socket) -> tuple[int, bytes]:
    """The status and the body; 0 where there is no answer."""
    said = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65_536):
            said += piece
    head, _, body = said.partition(b"\r\n\r\n")
    return (int(head[9:12]), body) if head else (0, b"")


def in_the_middle(daemon: Daemon) -> bool:
    """Waits until a copy has begun; False when it was over before anybody had looked."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        there = layers(daemon)
        if any(name.endswith(".partial") for name in there):
            return True
        if there:
            return False
        time.sleep(0.002)
    raise AssertionError("no copy has begun")


def tries() -> Iterator[int]:
    """A busy host may look away for as long as a copy takes. Who was in the middle of one leaves the loop."""
    yield from range(10)
    pytest.skip("each copy was over before anybody had looked")


def forget_all(daemon: Daemon, api: Api) -> None:
    for one in api.request("GET", "/snapshots").json:
        api.request("DELETE", f"/snapshots/{one['id']}")
    wait_until(lambda: layers(daemon) == [], 30, what="all layers go")


def replaced(daemon: Daemon) -> None:
    """api is killed, and there is another one."""
    old = daemon.api_pid
    os.kill(old, signal.SIGKILL)
    daemon.wait_ready()
    assert daemon.api_pid != old


def works(sandbox: Sandbox) -> bool:
    answer = sandbox.exec("echo on")
    return answer.status == 200 and answer.json["stdout"] == "on\n"


def test_api_killed_in_the_middle_of_a_snapshot(own_daemon: Daemon) -> None:
    with own_daemon.api() as api:
        sandbox = with_many_files(api)
        for _ in tries():
            with begun(sandbox) as connection:
                in_the_middle(own_daemon)
                replaced(own_daemon)
                status, _ = answered(connection)
            api.close()
            if status == 0:
                break
            forget_all(own_daemon, api)
        assert api.request("GET", "/snapshots").json == []
        wait_until(lambda: layers(own_daemon) == [], what="the half is removed")
        assert works(sandbox), "it does not stand still"
        # And the next one is well.
        made = sandbox.request("POST", "/snapshots")
        assert made.status == 201, made
        assert len(layers(own_daemon)) == 1
        replaced(own_daemon)
        api.close()
        assert [one["id"] for one in api.request("GET", "/snapshots").json] == [made.json["id"]]
        api.request("DELETE", f"/snapshots/{made.json['id']}")
        api.kill(sandbox.id)
        wait_until(lambda: layers(own_daemon) == [], what="nothing is left")


def test_a_client_that_leaves_in_the_middle(own_daemon: Daemon) -> None:
    with own_daemon.api() as api:
        sandbox = with_many_files(api)
        for _ in tries():
            with begun(sandbox):
                in_the_middle(own_daemon)
            assert works(sandbox), "which waits until it goes on"
            if api.request("GET", "/snapshots").json == []:
                break
            forget_all(own_daemon, api)
        wait_until(lambda: layers(own_daemon) == [], what="the half is removed")
        api.kill(sandbox.id)


def test_a_sandbox_killed_in_the_middle(own_daemon: Daemon) -> None:
    with own_daemon.api() as api:
        for _ in tries():
            sandbox = with_many_files(api)
            with begun(sandbox) as connection:
                in_the_middle(own_daemon)
                api.kill(sandbox.id)
                status, body = answered(connection)
            if status != 201:
                break
            forget_all(own_daemon, api)
        assert (status, json.loads(body)["code"]) in ((409, "sandbox_gone"), (409, "wrong_state"))
        wait_until(lambda: layers(own_daemon) == [], what="the half is removed")
        assert api.request("GET", "/snapshots").json == []


def test_others_wait_for_a_snapshot(own_daemon: Daemon) -> None:
    """Commands, files and a pause: they come to it when the copy is made."""
    with own_daemon.api() as api:
        sandbox = with_many_files(api)
        with begun(sandbox) as first:
            in_the_middle(own_daemon)
            with begun(sandbox, "/exec", {"command": "echo here"}) as command, begun(sandbox) as second:
                said = [answered(one)[0] for one in (first, command, second)]
        assert said == [201, 200, 201]
        forget_all(own_daemon, api)
        api.kill(sandbox.id)


def test_a_paused_sandbox(own_daemon: Daemon) -> None:
    with own_daemon.api() as api:
        sandbox = api.sandbox()
        sandbox.exec("echo kept > /kept")
        if sandbox.request("POST", "/pause").status == 503:
            pytest.skip("no cgroup is delegated here, and pausing needs one")
        made = sandbox.request("POST", "/snapshots")
        assert (made.status, made.json["processes"]) == (201, "paused")
        assert sandbox.request("GET", "/diff").status == 200
        forks = sandbox.request("POST", "/fork", {"count": 1})
        assert forks.status == 201, forks
        fork = Sandbox(api, forks.json["sandboxes"][0]["id"])
        assert fork.exec("cat /kept").json["stdout"] == "kept\n"
        assert api.get(sandbox.id)["status"] == "paused", "it still stands"
        assert sandbox.request("POST", "/resume").status == 200
        assert works(sandbox)
        for one in (sandbox, fork):
            api.kill(one.id)
        ended = sandbox.request("POST", "/snapshots")
        assert (ended.status, ended.code) == (409, "wrong_state")
        api.request("DELETE", f"/snapshots/{made.json['id']}")


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.15, 0.4])
def test_api_killed_in_the_middle_of_a_fork(own_daemon: Daemon, delay: float) -> None:
    """All or none, at whatever point."""
    with own_daemon.api() as api:
        sandbox = api.sandbox()
        with begun(sandbox, "/fork", {"count": 12}) as connection:
            wait_until(lambda: layers(own_daemon), what="the copy begins")
            time.sleep(delay)  # anywhere from here on: what is asserted holds for all of them
            replaced(own_daemon)
            status, _ = answered(connection)
        api.close()
        there = [one for one in api.request("GET", "/sandboxes").json if one.get("forkedFrom") == sandbox.id]
        assert len(there) in (0, 12), [one["status"] for one in there]
        if status == 201:
            assert len(there) == 12, "what was told is there"
        for one in (sandbox.id, *(one["id"] for one in there)):
            api.kill(one)
        wait_until(lambda: layers(own_daemon) == [], what="nothing is left")


def test_forks_that_are_too_many(daemon_factory: DaemonFactory) -> None:
    daemon = daemon_factory(settings={"max_sandboxes": "3"})
    with daemon.api() as api:
        sandbox = api.sandbox()
        refused = sandbox.request("POST", "/fork", {"count": 3})
        assert (refused.status, refused.code) == (429, "too_many_sandboxes")
        assert len(api.request("GET", "/sandboxes").json) == 1
        assert layers(daemon) == []
        assert sandbox.request("POST", "/fork", {"count": 2}).status == 201


def spares(daemon: Daemon) -> set[int]:
    return {one.pid for one in descendants(daemon.pid) if one.name == "nsbox-spare"}


def test_the_spare_process_is_used_and_missed_by_nobody(daemon_factory: DaemonFactory) -> None:
    """After the first copy one is kept ready, with a child: it makes the next, or has died and does not."""
    daemon = daemon_factory()
    with daemon.api() as api:
        sandbox = api.sandbox()
        assert spares(daemon) == set()
        for number, fate in enumerate(("none yet", "used", "killed", "used")):
            sandbox.exec(f"echo {number} > /number")
            before = spares(daemon)
            if fate == "killed":
                for pid in before:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            made = sandbox.request("POST", "/snapshots")
            assert made.status == 201, (fate, made)
            copy = api.sandbox(snapshot=made.json["id"])
            assert copy.out("cat /number") == f"{number}\n"
            wait_until(lambda old=before: len(spares(daemon) - old) == 2, 30, f"another spare ({fate})")  # type: ignore[misc]
            assert not before & spares(daemon)


def test_limits_on_snapshots(daemon_factory: DaemonFactory) -> None:
    daemon = daemon_factory(settings={"max_snapshots": "2"})
    with daemon.api() as api:
        sandbox = api.sandbox()
        made = [sandbox.request("POST", "/snapshots") for _ in range(3)]
        assert [one.status for one in made] == [201, 201, 429]
        assert made[2].code == "too_many_snapshots"
        assert sandbox.request("POST", "/fork").status == 201, "a fork is none"
        assert api.request("DELETE", f"/snapshots/{made[0].json['id']}").status == 200
        assert sandbox.request("POST", "/snapshots").status == 201


def test_storage_in_memory(daemon_factory: DaemonFactory) -> None:
    """There is nothing on the disk that could be copied, and that is said."""
    if facts.kernel().version < TMPFS_KERNEL:
        pytest.skip("tmpfs has no user.* attributes before Linux 6.6")
    daemon = daemon_factory(settings={"storage": "tmpfs"})
    with daemon.api() as api:
        sandbox = api.sandbox()
        for method, path in (("POST", "/snapshots"), ("POST", "/fork"), ("GET", "/diff")):
            answer = sandbox.request(method, path)
            assert (answer.status, answer.code) == (409, "snapshot_refused"), (path, answer)
        assert works(sandbox)


def test_layers_on_layers(daemon_factory: DaemonFactory) -> None:
    """As many as a mount takes, and then a clear refusal."""
    daemon = daemon_factory(settings={"max_snapshots": "200"})
    with daemon.api() as api:
        sandbox = api.sandbox()
        for number in range(126):
            assert sandbox.exec(f"echo {number} > /n{number}; echo {number} > /last").status == 200
            made = sandbox.request("POST", "/snapshots")
            assert made.status == 201, (number, made)
            api.kill(sandbox.id)
            sandbox = api.sandbox(snapshot=made.json["id"])
        assert made.json["layers"] == 127
        assert sandbox.exec("cat /n0 /n70 /last").json["stdout"] == "0\n70\n125\n"
        refused = sandbox.request("POST", "/snapshots")
        assert (refused.status, refused.code) == (409, "too_many_layers"), refused
        assert sandbox.request("POST", "/fork").code == "too_many_layers"
        assert sandbox.request("GET", "/diff").status == 200


def test_after_a_restart_of_everything(daemon_factory: DaemonFactory) -> None:
    """Snapshots stay, and what cannot be whole any more is not claimed to be."""
    daemon = daemon_factory()
    with daemon.api() as api:
        sandbox = api.sandbox()
        sandbox.exec("echo kept > /kept")
        made = [sandbox.request("POST", "/snapshots").json["id"] for _ in range(3)]

        def durable() -> bool:
            return all(one["durable"] for one in api.request("GET", "/snapshots").json)

        wait_until(durable, 240, what="all are on disk")  # a syncfs of the whole disk, whoever writes to it
    daemon.stop()
    kept, unsure, gone = made
    _as_of_another_boot(daemon, unsure)
    library = f"{daemon.state_dir}/library"
    by_snapshot = _layers_by_snapshot(daemon)
    os.unlink(f"{library}/{by_snapshot[unsure]}.layer")  # nobody knows that it had come to the disk
    os.rename(f"{daemon.state_dir}/layers/{by_snapshot[gone]}", f"{daemon.state_dir}/layers/s-other")
    daemon.start()
    with daemon.api() as api:
        assert [one["id"] for one in api.request("GET", "/snapshots").json] == [kept]
        wait_until(lambda: layers(daemon) == [by_snapshot[kept]], what="the others' layers go")
        again = api.sandbox(snapshot=kept)
        assert again.exec("cat /kept").json["stdout"] == "kept\n"


def _layers_by_snapshot(daemon: Daemon) -> dict[str, str]:
    with sqlite3.connect(f"{daemon.state_dir}/nsbox.db") as record:
        rows = record.execute("SELECT id, json_extract(CAST(body AS TEXT), '$.layer') FROM snapshots")
        return dict(rows.fetchall())


def _as_of_another_boot(daemon: Daemon, snapshot: str) -> None:
    with sqlite3.connect(f"{daemon.state_dir}/nsbox.db") as record:
        record.execute(
            "UPDATE snapshots SET body = CAST(json_set(CAST(body AS TEXT), '$.boot_id', 'other') AS BLOB)"
            " WHERE id = ?",
            (snapshot,),
        )
