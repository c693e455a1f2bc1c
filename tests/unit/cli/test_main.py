from __future__ import annotations

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from nsbox import __version__
from nsbox.cli import main as cli_main
from nsbox.cli.main import cli
from nsbox.host import account
from nsbox.model.errors import HostProblem

COMMANDS = ["serve", "demo", "run", "keys", "doctor", "setup"]


class Dropped(Exception):
    """Stands for the exec that never returns."""


@pytest.fixture
def as_root(monkeypatch):
    calls = []

    def drop_to(user, arguments, defaults):
        calls.append((user, list(arguments), dict(defaults)))
        raise Dropped

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(account, "drop_to", drop_to)
    monkeypatch.delenv("NSBOX_SERVICE_USER", raising=False)
    return calls


@pytest.mark.parametrize("arguments", [["--version"], ["--help"]])
def test_no_subcommand_is_imported_in_vain(arguments):
    code = (
        "import sys; from nsbox.cli.main import main; sys.argv = ['nsbox', *sys.argv[1:]]\n"
        "try: main()\n"
        "finally: print(*sorted(set(sys.modules) & {'msgspec', 'trio', 'quart', 'prctl', 'sqlite3', 'rich'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    *shown, imported = done.stdout.splitlines()
    assert imported == ""
    if arguments == ["--version"]:
        assert shown == [f"nsbox, version {__version__}"]
    else:
        assert [name for name in COMMANDS if f"  {name} " in done.stdout] == COMMANDS


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "setup"])
def test_root_becomes_the_service_user(as_root, name):
    with pytest.raises(Dropped):
        CliRunner().invoke(cli, [name, "--x", "y"], catch_exceptions=False)
    (user, arguments, defaults), *more = as_root
    assert (user, arguments, more) == ("nsbox", [name, "--x", "y"], [])
    wants_state = name in ("serve", "keys", "doctor")
    assert defaults == ({"NSBOX_STATE_DIR": "/var/lib/nsbox"} if wants_state else {})


CLIENTS = ["ps", "create", "fork", "exec", "cp", "logs", "ports", "pause", "resume", "kill", "metrics"]
CLIENTS += ["context", "completion", "shell"]


@pytest.mark.parametrize("name", CLIENTS)
def test_who_speaks_to_a_daemon_stays_who_they_are(as_root, name):
    """Their contexts are in their home, and the files they copy are theirs."""
    assert CliRunner().invoke(cli, [name, "--context"]).exit_code == 2
    assert as_root == []


def test_a_command_of_the_client_imports_nothing_of_the_daemon(tmp_path):
    code = (
        "import sys; from nsbox.cli.main import main; sys.argv = ['nsbox', 'ps']\n"
        "try: main()\n"
        "finally: print(*sorted(sys.modules))"
    )
    env = {"NSBOX_URL": "http://127.0.0.1:1", "NSBOX_API_KEY": "k", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=env, check=False
    )
    assert "cannot be reached" in done.stderr
    loaded = set(done.stdout.split())
    heavy = {
        "quart",
        "hypercorn",
        "trio",
        "httpx2",
        "anyio",
        "asyncio",
        "sqlite3",
        "prctl",
        "rich",
        "pyroute2",
    }
    assert not loaded & heavy
    ours = {name.split(".")[1] for name in loaded if name.startswith("nsbox.")}
    assert ours == {"cli", "client", "kernel", "model"}


def test_the_service_user_can_be_chosen(as_root, monkeypatch):
    monkeypatch.setenv("NSBOX_SERVICE_USER", "boxes")
    with pytest.raises(Dropped):
        CliRunner().invoke(cli, ["doctor"], catch_exceptions=False)
    assert as_root[0][0] == "boxes"


@pytest.mark.parametrize("arguments", [["setup", "--help"], ["doctor", "--help"], ["--help"]])
def test_help_and_setup_stay_root(as_root, arguments):
    assert CliRunner().invoke(cli, arguments).exit_code == 0
    assert as_root == []


def test_a_help_option_of_the_command_in_the_sandbox_is_not_ours(as_root):
    with pytest.raises(Dropped):
        CliRunner().invoke(cli, ["run", "--", "ls", "--help"], catch_exceptions=False)


def test_a_host_problem_is_advice_and_not_a_traceback(monkeypatch, capsys):
    def fail(**unused):
        raise HostProblem("it is so", remedy="do that")

    monkeypatch.setattr(cli_main, "cli", fail)
    with pytest.raises(SystemExit) as stop:
        cli_main.main()
    assert stop.value.code == 1
    assert capsys.readouterr().err == "nsbox: it is so\n  remedy: do that\n"


def test_an_unknown_command_is_a_usage_error():
    assert CliRunner().invoke(cli, ["nosuch"]).exit_code == 2
