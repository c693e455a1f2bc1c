"""Users and keys with a real daemon: over HTTP and on the command line, while it runs."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.client import BASE, Api
from tests.e2e.daemon import Daemon, wait_until
from tests.e2e.test_sandboxes import check_problem
from tests.e2e.websocket import Lost, Refused, Socket

PRESET = "0123456789abcdef-preset"
_OLD = Path(__file__).parents[1] / "unit" / "store" / "records" / "version2.sql"


@pytest.fixture
def ann(daemon: Daemon, api: Api) -> Iterator[str]:
    """The id of a user of this test's own, whose sandboxes end with it."""
    made = daemon.nsbox_on_state("users", "create", f"ann-{time.monotonic_ns()}")
    assert made.returncode == 0, made.stderr
    user = made.stdout.strip()
    yield user
    acting = {"Nsbox-User": user}
    for sandbox in api.request("GET", "/sandboxes", headers=acting).json:
        assert api.request("DELETE", f"/sandboxes/{sandbox['id']}", headers=acting).status == 200
    gone = daemon.nsbox_on_state("users", "remove", user)
    assert gone.returncode == 0, gone.stderr


def key_of(daemon: Daemon, user: str, *more: str) -> str:
    made = daemon.nsbox_on_state("keys", "create", "hers", "--user", user, *more)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def test_a_team(daemon: Daemon, api: Api) -> None:
    """As an administrator would over HTTP: a user, a key for her, her sandbox, the end of it all."""
    user = api.request("POST", "/users", {"name": "team member"}).json
    acting = {"Nsbox-User": user["id"]}
    made = api.request("POST", "/keys", {"name": "laptop"}, headers=acting)
    assert (made.status, made.json["scopes"]) == (201, ["sandboxes", "files"])
    with daemon.api(made.json["key"]) as hers:
        sandbox = hers.sandbox()
        assert sandbox.out("echo hi") == "hi\n"
        assert sandbox.write("/tmp/x", "y").status == 200
        check_problem(hers.request("POST", "/images", {"image": "alpine"}), 403, "forbidden")
        check_problem(hers.request("GET", "/users"), 403, "forbidden")
        me = hers.request("GET", "/me").json
        assert (me["user"]["id"], me["plan"]["name"]) == (user["id"], "unlimited")
        narrow = hers.request("POST", "/keys", {"name": "ci", "scopes": ["files", "read-only"]}).json["key"]
        check_a_narrow_key(daemon.api(narrow), sandbox.id)
        check_problem(api.request("GET", f"/sandboxes/{sandbox.id}"), 404, "sandbox_not_found")
        busy = api.request("DELETE", f"/users/{user['id']}")
        assert (busy.status, busy.code, busy.json["sandboxes"]) == (409, "user_not_empty", 1)
        assert api.request("PATCH", f"/users/{user['id']}", {"disabled": True}).json["disabled"] is True
        check_problem(hers.request("GET", "/me"), 401, "invalid_key")
        killed = api.request("DELETE", f"/sandboxes/{sandbox.id}", headers=acting)
        assert (killed.status, killed.json["status"]) == (200, "stopped")
        assert api.request("DELETE", f"/users/{user['id']}").status == 200
        check_problem(hers.request("GET", "/me"), 401, "invalid_key")


def check_a_narrow_key(looking: Api, sandbox_id: str) -> None:
    """It reads files and nothing else."""
    one = f"/sandboxes/{sandbox_id}"
    with looking:
        assert looking.request("GET", f"{one}/files?path=/tmp/x").json["content"] == "y"
        for answer in (
            looking.request("PUT", f"{one}/files?path=/tmp/x", {"content": "z"}),
            looking.request("POST", f"{one}/exec", {"command": "true"}),
            looking.request("GET", one),
            looking.request("POST", "/keys", {"name": "more"}),
        ):
            check_problem(answer, 403, "forbidden")


def test_the_command_line_is_heeded_at_once(daemon: Daemon, ann: str) -> None:
    key = key_of(daemon, ann)
    with daemon.api(key) as hers:
        assert hers.request("GET", "/me").status == 200
        assert daemon.nsbox_on_state("users", "disable", ann).returncode == 0
        check_problem(hers.request("GET", "/me"), 401, "invalid_key")
        assert daemon.nsbox_on_state("users", "enable", ann).returncode == 0
        assert hers.request("GET", "/me").status == 200
        assert daemon.nsbox_on_state("keys", "revoke", "--user", ann).returncode == 0
        check_problem(hers.request("GET", "/me"), 401, "invalid_key")


def test_a_key_expires(daemon: Daemon, api: Api) -> None:
    made = daemon.nsbox_on_state("keys", "create", "short", "--expires", "10s")
    with daemon.api(made.stdout.strip()) as hers:
        assert hers.request("GET", "/me").json["key"]["expiresAt"] is not None
        wait_until(lambda: hers.request("GET", "/me").status == 401, 30, "the end of a key")
        check_problem(hers.request("GET", "/me"), 401, "invalid_key")
    assert api.request("GET", "/me").status == 200


def test_a_revoked_key_ends_its_terminal(daemon: Daemon, ann: str) -> None:
    """What is open already gets nothing through any more, in or out."""
    with daemon.api(key_of(daemon, ann)) as hers:
        sandbox = hers.sandbox()
        process = sandbox.request("POST", "/processes", {"command": "exec cat", "stdin": "open"}).json
        path = f"/sandboxes/{sandbox.id}/processes/{process['id']}/attach"
        ticket = sandbox.request("POST", f"/processes/{process['id']}/ticket").json
        url = f"http://{hers.host}:{hers.port}{BASE}"
        terminal = Socket(url, path, [("Authorization", f"Bearer {hers.key}")])
        terminal.type(b"before\n")
        seen = b""
        while b"before" not in seen:
            seen += b"".join(getattr(one, "data", b"") for one in terminal.receive())
        assert daemon.nsbox_on_state("keys", "revoke", "--user", ann).returncode == 0
        terminal.type(b"after\n")
        told, reason = [], ""
        while not reason and not any(b"after" in getattr(one, "data", b"") for one in told):
            try:
                told += list(terminal.receive())
            except Lost as lost:
                reason = str(lost)
        assert reason == "the key is in force no more", told
        terminal.close()
        with pytest.raises(Refused, match="in force no more"):
            Socket(url, path, [("Sec-WebSocket-Protocol", ", ".join(ticket["protocols"]))])


def test_guesses_and_rates(daemon_factory: Callable[..., Daemon]) -> None:
    one = daemon_factory(
        settings={
            "trusted_proxies": "127.0.0.1",
            "auth_failures": "20",
            "rate_limit": "1",
            "rate_burst": "20",
        }
    )
    with one.api() as api:
        answers = [
            api.request("GET", "/me", key=f"guess {count}", headers={"X-Forwarded-For": "192.0.2.1"})
            for count in range(60)
        ]
        assert [answer.status for answer in answers[:20]] == [401] * 20
        assert 429 in [answer.status for answer in answers]
        refused = next(answer for answer in answers if answer.status == 429)
        assert (refused.code, int(refused.headers["retry-after"]) >= 1) == ("too_many_failures", True)
        mine = api.request("GET", "/me", headers={"X-Forwarded-For": "192.0.2.2"})
        assert mine.status == 200
        assert mine.headers["ratelimit-policy"] == '"key";q=20;w=20'
        answers = [api.request("GET", "/me") for _ in range(60)]
        limited = next(answer for answer in answers if answer.status == 429)
        check_problem(limited, 429, "too_many_requests")
        assert int(limited.headers["retry-after"]) >= 1
        assert limited.headers["ratelimit"].startswith('"key";r=0;t=')


def test_a_record_of_an_older_version(daemon_factory: Callable[..., Daemon]) -> None:
    """A daemon takes over a record that one of version 2 left when it was killed."""
    one = daemon_factory(key=PRESET, start=False)
    path = Path(one.state_dir) / "nsbox.db"
    connection = sqlite3.connect(path)
    connection.executescript(_OLD.read_text())
    connection.close()
    if one.who.as_root:
        os.chown(path, one.who.uid, one.who.gid)
    one.start()
    with one.api() as api:
        me = api.request("GET", "/me").json
        assert (me["user"]["name"], me["user"]["role"]) == ("admin", "admin")
        names = {user["name"]: user["id"] for user in api.request("GET", "/users").json["users"]}
        assert set(names) == {"admin", "bob", "eve"}
        ended = api.request("GET", "/sandboxes?status=all").json
        assert sorted((record["status"], record["endReason"]) for record in ended) == [
            ("lost", "lost"), ("stopped", "killed"),
        ]  # fmt: skip
        acting = {"Nsbox-User": names["eve"]}
        assert len(api.request("GET", "/sandboxes?status=all", headers=acting).json) == 1
        assert api.sandbox().out("echo on") == "on\n"
