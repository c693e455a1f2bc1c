"""The same request many times at once: one effect, one answer for all, and nothing left of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tests.acceptance.plugin import Say
from tests.e2e.client import Answer, Api
from tests.e2e.daemon import Daemon, settle

_TIMES: Final = 8
_ROUNDS: Final = 3


def at_once(daemon: Daemon, ask: Callable[[Api], Answer]) -> list[Answer]:
    """From so many clients, each with a connection that is open when the first of them asks."""
    ready = threading.Barrier(_TIMES)

    def one(_: int) -> Answer:
        with daemon.api() as api:
            api.request("GET", "/me")
            ready.wait(60)
            return ask(api)

    with ThreadPoolExecutor(_TIMES) as pool:
        return list(pool.map(one, range(_TIMES)))


def test_one_idempotency_key_many_times_at_once(own_daemon: Daemon, figure: Say) -> None:
    with own_daemon.api() as api:
        assert api.kill(api.create()).status == 200
        api.close()
        before = settle(own_daemon)
        for number in range(_ROUNDS):
            headers = {"Idempotency-Key": f"at-once-{number}"}
            answers = at_once(own_daemon, lambda one: one.request("POST", "/sandboxes", {}, headers=headers))  # noqa: B023
            assert {answer.status for answer in answers} <= {200, 201}, answers
            made = {answer.json["id"] for answer in answers}
            alive = {one["id"] for one in api.request("GET", "/sandboxes").json}
            for one in alive:
                assert api.kill(one).status == 200
            figure(15, "duplicates at once", tried=len(answers), bad=len(made | alive) - 1)
        api.close()
        assert settle(own_daemon) == before


def test_deletes_at_once(own_daemon: Daemon, figure: Say) -> None:
    """Each is told the same: it is stopped. The record has one end."""
    with own_daemon.api() as api:
        assert api.kill(api.create()).status == 200
        api.close()
        before = settle(own_daemon)
        for _ in range(_ROUNDS):
            sandbox = api.create()
            answers = at_once(own_daemon, lambda one: one.kill(sandbox))  # noqa: B023
            other = [one for one in answers if (one.status, one.json.get("status")) != (200, "stopped")]
            assert other == []
            ended = [one for one in api.request("GET", "/sandboxes?status=all").json if one["id"] == sandbox]
            assert [(one["status"], one["endReason"]) for one in ended] == [("stopped", "killed")]
            figure(15, "duplicates at once", tried=len(answers), bad=len(other))
        api.close()
        assert settle(own_daemon) == before


def test_pauses_and_resumes_at_once(own_daemon: Daemon, figure: Say) -> None:
    """All of them are answered alike, and it stands still or runs as they say. Where no cgroup is delegated
    nothing can be paused: then every one of them is refused, and it runs on."""
    with own_daemon.api() as api:
        sandbox = api.sandbox()
        for verb, state in (("pause", "paused"), ("resume", "running")):
            answers = at_once(
                own_daemon,
                lambda one: one.request("POST", f"/sandboxes/{sandbox.id}/{verb}"),  # noqa: B023
            )
            told = {answer.status for answer in answers}
            assert told in ({200}, {503}), answers
            expected = state if told == {200} else "running"
            is_so = api.get(sandbox.id)["status"] == expected
            figure(15, "duplicates at once", tried=len(answers), bad=not is_so)
        assert sandbox.out("echo on") == "on\n"
        assert api.kill(sandbox.id).status == 200
