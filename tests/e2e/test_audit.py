"""The audit log of a real daemon: what is in it, what is not, and that it is there after the end."""

from __future__ import annotations

import json
import os
import signal
import sqlite3

from nsbox.store.database import FILE_NAME
from tests.conftest import DaemonFactory
from tests.e2e.client import Api
from tests.e2e.daemon import Daemon

SECRET = "canary-of-the-audit-log"


def found(api: Api, query: str = "") -> list[dict[str, object]]:
    answer = api.request("GET", f"/audit{query}")
    assert answer.status == 200, answer
    events: list[dict[str, object]] = answer.json["events"]
    return events


def test_who_did_what_to_a_sandbox(daemon: Daemon, api: Api) -> None:
    sandbox = api.sandbox(envVars={"TOKEN": SECRET})
    assert sandbox.exec(f"echo {SECRET}").status == 200
    assert sandbox.write("/tmp/x", SECRET).status == 200
    assert api.kill(sandbox.id).status == 200
    events = found(api, f"?sandboxId={sandbox.id}")
    assert [(one["action"], one["outcome"], one["status"]) for one in events] == [
        ("kill_sandbox", "done", 200),
        ("write_file", "done", 200),
        ("exec_command", "done", 200),
        ("create_sandbox", "done", 201),
    ]
    me = api.request("GET", "/me").json
    assert {(one["userId"], one["keyId"]) for one in events} == {(me["user"]["id"], me["key"]["id"])}
    assert {one["from"] for one in events} == {"127.0.0.1"}
    only = found(api, f"?sandboxId={sandbox.id}&action=exec_command&userId={me['user']['id']}")
    assert [one["id"] for one in only] == [events[2]["id"]]
    pages = found(api, f"?sandboxId={sandbox.id}&limit=1&before={events[0]['id']}")
    assert [one["id"] for one in pages] == [events[1]["id"]]
    printed = daemon.nsbox_on_state("audit", "--sandbox", sandbox.id)
    assert printed.returncode == 0, printed.stderr
    lines = printed.stdout.splitlines()
    assert lines[0].split() == ["TIME", "ACTION", "USER", "KEY", "SANDBOX", "FROM", "OUTCOME"]
    assert [line.split()[1] for line in lines[1:]] == [one["action"] for one in events]
    as_json = daemon.nsbox_on_state("audit", "--sandbox", sandbox.id, "--json", "--limit", "2")
    assert [json.loads(line) for line in as_json.stdout.splitlines()] == events[:2]


def test_a_user_sees_her_own(daemon: Daemon, api: Api) -> None:
    user = api.request("POST", "/users", {"name": "audited"}).json
    acting = {"Nsbox-User": user["id"]}
    try:
        key = api.request("POST", "/keys", {"name": "hers"}, headers=acting).json["key"]
        with daemon.api(key) as hers:
            assert hers.kill(hers.sandbox(timeoutMs=60_000).id).status == 200
            seen = found(hers)
            assert [one["action"] for one in seen] == ["kill_sandbox", "create_sandbox", "make_key"]
            assert [one["onBehalfOf"] for one in seen] == [None, None, user["id"]]
            assert found(hers, f"?userId={api.request('GET', '/me').json['user']['id']}") == seen[2:]
            assert found(api, f"?userId={user['id']}") == seen[:2]
    finally:
        assert api.request("DELETE", f"/users/{user['id']}").status == 200


def stored(daemon: Daemon) -> list[tuple[object, ...]]:
    with sqlite3.connect(os.path.join(daemon.state_dir, FILE_NAME)) as connection:
        return connection.execute("SELECT action, client, count, status FROM audit ORDER BY id").fetchall()


def test_all_is_written_before_the_daemon_ends(daemon_factory: DaemonFactory) -> None:
    daemon = daemon_factory()
    with daemon.api() as api:
        sandbox = api.sandbox()
        with daemon.api(f"nsbox_{SECRET}") as guesser:
            for _ in range(5):
                assert guesser.request("GET", "/sandboxes").status == 401
        for _ in range(20):
            assert sandbox.exec("true").status == 200
    daemon.signal(signal.SIGTERM)
    assert daemon.wait(30) == 0
    events = stored(daemon)
    assert events.count(("exec_command", "127.0.0.1", 1, 200)) == 20
    assert events[0][0] == "create_sandbox"
    assert events[-1] == ("authenticate", "127.0.0.1", 5, 401)
    with open(os.path.join(daemon.state_dir, FILE_NAME), "rb") as record:
        assert SECRET.encode() not in record.read()


def test_what_was_answered_outlives_a_killed_api(daemon_factory: DaemonFactory) -> None:
    """Killed at once after each answer, again and again: every entry is there, once, and in order."""
    daemon = daemon_factory()
    wanted = []
    with daemon.api() as api:
        sandbox = api.sandbox()
        wanted.append("create_sandbox")
        for name in ("exec_command", "write_file", "make_key"):
            if name == "exec_command":
                assert sandbox.exec("true").status == 200
            elif name == "write_file":
                assert sandbox.write("/tmp/x", "y").status == 200
            else:
                assert api.request("POST", "/keys", {"name": "x"}).status == 201
            daemon.kill(daemon.api_pid, signal.SIGKILL)
            wanted.append(name)
            daemon.wait_ready()
        actions = [one["action"] for one in found(api)]
        assert actions == wanted[::-1]
        assert [action for action, *_ in stored(daemon)] == wanted
