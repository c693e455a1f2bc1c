from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from nsbox.cli.run import exit_status, run

_CALL = """
import sys
from nsbox.cli import private
private.self_command = lambda args, env: ([sys.executable, "-I", {fake!r}, *args], dict(env))
from nsbox.cli.run import run
run({arguments!r})
"""


def call(arguments: list[str], given: bytes | None) -> subprocess.CompletedProcess[bytes]:
    """In a process of its own: the command reads descriptor 0 and writes bytes to 1 and 2."""
    code = _CALL.format(fake=str(Path(__file__).with_name("fake_daemon.py")), arguments=arguments)
    return subprocess.run(
        [sys.executable, "-c", code],
        input=given,
        stdin=subprocess.DEVNULL if given is None else None,
        capture_output=True,
        timeout=60,
        check=False,
    )


def test_bytes_arguments_and_status_go_through(fake_serve):
    serve = fake_serve("good")
    done = call(["--env", "A=b=c", "--timeout", "2.5", "--", "echo", "-n", "--", "é"], b"\x00in\xff")
    assert done.stdout == b'[["echo", "-n", "--", "\\u00e9"], {"A": "b=c"}, 2500]\xff\x00in\xff'
    assert done.stderr == b"err"
    assert done.returncode == 7
    assert serve.lines[-2:] == ["DELETE /api/v1/sandboxes/sb_fake", "signal 15"]
    assert serve.lines[0] == f"start serve --port 0 --limits best-effort {serve.state_dir}-run"


def test_options_behind_the_command_are_the_commands(fake_serve):
    fake_serve("good")
    done = call(["ls", "--env", "x"], None)
    assert done.stdout.startswith(b'[["ls", "--env", "x"], {}, 600000]')


def test_the_status_is_125_when_nsbox_failed(fake_serve):
    serve = fake_serve("broken")
    done = call(["true"], None)
    assert done.returncode == 125
    assert b"no answer; make another" in done.stderr
    assert serve.lines[-2].startswith("DELETE")


def test_a_daemon_that_does_not_start_is_shown(fake_serve):
    fake_serve("refuses")
    done = call(["true"], None)
    assert done.returncode == 125
    assert b"this host has no luck" in done.stderr
    assert b"Traceback" not in done.stderr


def test_too_much_input_is_refused(fake_serve):
    fake_serve("good")
    done = call(["true"], bytes(7 * 1024 * 1024))
    assert done.returncode == 125
    assert b"standard input" in done.stderr


def test_a_variable_needs_a_name():
    result = CliRunner().invoke(run, ["--env", "=x", "true"])
    assert result.exit_code == 2
    assert "K=V" in result.output


@pytest.mark.parametrize(
    ("result", "status"),
    [
        ({"outcome": "exited", "exitCode": 0}, 0),
        ({"outcome": "exited", "exitCode": 3}, 3),
        ({"outcome": "signaled", "exitCode": None, "signal": "KILL"}, 137),
        ({"outcome": "signaled", "exitCode": None, "signal": "SIGSEGV"}, 139),
        ({"outcome": "timedOut", "exitCode": None, "signal": "KILL"}, 124),
        ({"outcome": "oom", "exitCode": None}, 137),
        ({"outcome": "sandboxGone", "exitCode": None}, 125),
        ({"outcome": "signaled", "exitCode": None, "signal": "NOSUCH"}, 125),
    ],
)
def test_exit_status(result, status):
    assert exit_status(result) == status


def test_a_daemon_that_runs_already_is_asked(fake_serve, monkeypatch):
    """Nothing listens there: the failure names the address, and no daemon was started."""
    serve = fake_serve("good")
    monkeypatch.setenv("NSBOX_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("NSBOX_API_KEY", "k" * 20)
    done = call(["true"], None)
    assert done.returncode == 125
    assert b"no answer from http://127.0.0.1:9/api/v1" in done.stderr
    assert serve.lines == []
    assert os.environ["NSBOX_URL"] not in done.stdout.decode()
