from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from nsbox.cli.private import private_daemon, private_state_dir
from nsbox.model.errors import HostProblem

_KILLED = """
import os, sys
from nsbox.cli import private
private.self_command = lambda args, env: ([sys.executable, "-I", {fake!r}, *args], dict(env))
with private.private_daemon(os.environ) as daemon:
    print("up", flush=True)
    sys.stdin.read()
"""


def test_the_second_at_once_gets_a_folder_of_its_own(tmp_path):
    environment = {"NSBOX_STATE_DIR": str(tmp_path / "state")}
    with private_state_dir(environment) as first, private_state_dir(environment) as second:
        assert first == str(tmp_path / "state-run")
        assert second.startswith(first + "-")
        assert stat.S_IMODE(os.stat(second).st_mode) == 0o700
        Path(second, "file").write_text("x")
    assert sorted(os.listdir(tmp_path)) == ["state-run.lock"]
    with private_state_dir(environment) as again:
        assert again == first


def test_no_folder_can_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HostProblem, match="no state folder"):
        private_state_dir({"NSBOX_STATE_DIR": str(tmp_path / "file" / "state")}).__enter__()


def test_without_a_home_there_is_a_folder_for_once(tmp_path):
    (tmp_path / "home").write_text("")
    (tmp_path / "fallback").mkdir()
    environment = {"HOME": str(tmp_path / "home")}
    with private_state_dir(environment, str(tmp_path / "fallback")) as folder:
        assert os.path.dirname(folder) == str(tmp_path / "fallback")
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    assert os.listdir(tmp_path / "fallback") == []


def test_the_key_is_the_daemons_alone(fake_serve):
    fake_serve("good")
    with private_daemon(os.environ) as one:
        assert len(one.key) > 40
        assert one.url.startswith("http://127.0.0.1:")
        assert "NSBOX_BOOTSTRAP_KEY" not in os.environ


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_daemon_does_not_outlive_the_command(fake_serve, number):
    serve = fake_serve("good")
    code = _KILLED.format(fake=str(Path(__file__).with_name("fake_daemon.py")))
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as command:
        assert command.stdout is not None
        assert command.stdout.readline() == b"up\n"
        before = signal_watch(serve)
        command.send_signal(number)
        before()
    assert serve.lines[-1] == "signal 15"


def signal_watch(serve):
    """Waits for the fake's last line, by watching its process end."""
    pid = next(
        int(entry)
        for entry in os.listdir("/proc")
        if entry.isdigit() and _state_dir_of(int(entry)) == f"{serve.state_dir}-run"
    )
    descriptor = os.pidfd_open(pid)

    def wait() -> None:
        import select

        ready, _, _ = select.select([descriptor], [], [], 30)
        os.close(descriptor)
        assert ready, "the daemon is still there"

    return wait


def _state_dir_of(pid: int) -> str | None:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return None
    found = [item for item in environment if item.startswith(b"NSBOX_STATE_DIR=")]
    return found[0].partition(b"=")[2].decode() if found and b"fake_daemon.py" in command else None
