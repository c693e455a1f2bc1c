from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest
from click.testing import CliRunner

from nsbox.cli import setup_steps, setup_units
from nsbox.cli.setup import execute, plan, revert, setup
from nsbox.cli.setup_steps import AllowNamespaces, GiveIds, MakeFolder, MakeUser, WriteFile
from nsbox.cli.setup_units import unit_text, user_unit_text
from nsbox.model.errors import HostProblem

ME = pwd.getpwuid(os.getuid()).pw_name


class Counted:
    def __init__(self, done):
        self.title = "the thing"
        self.done = done
        self.applied = 0

    def is_done(self):
        return self.done

    def commands(self):
        return ["do it"]

    def apply(self):
        self.applied += 1


def test_steps_run_only_when_needed(capsys):
    done, open_ = Counted(True), Counted(False)
    execute([done, open_], dry_run=False)
    assert (done.applied, open_.applied) == (0, 1)
    execute([open_], dry_run=True)
    assert open_.applied == 1
    assert capsys.readouterr().out.count("do it") == 2


def test_a_pool_is_written_down_in_its_state_folder_and_nowhere_above_it(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    done = CliRunner().invoke(
        setup, ["--quota-only", "--user", ME, "--state-dir", str(tmp_path / "none")], catch_exceptions=True
    )
    assert isinstance(done.exception, HostProblem)
    assert "there is no state folder" in str(done.exception)
    assert not list(tmp_path.iterdir())


def test_a_pool_is_for_an_account_that_exists(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    done = CliRunner().invoke(setup, ["--quota-only", "--user", "nobody-here", "--state-dir", str(tmp_path)])
    assert isinstance(done.exception, HostProblem)
    assert "there is no user nobody-here" in str(done.exception)


def test_switches_that_forbid_namespaces_are_turned_for_good(tmp_path, monkeypatch):
    proc, ran = tmp_path / "proc", []
    for name, value in (("user/max_user_namespaces", "0"), ("kernel/unprivileged_userns_clone", "1")):
        (proc / "sys" / name).parent.mkdir(parents=True)
        (proc / "sys" / name).write_text(value)
    path = tmp_path / "sysctl.d" / "60-nsbox.conf"
    step = AllowNamespaces(str(path), str(proc))
    monkeypatch.setattr(setup_steps, "run", ran.append)
    assert (step.concerns, step.is_done(), step.is_undone()) == (True, False, True)
    assert "user.max_user_namespaces = 15000" in step.commands()[0]
    step.apply()
    assert path.read_text() == "user.max_user_namespaces = 15000\n"
    assert ran == [["sysctl", "--quiet", "--load", str(path)]]
    (proc / "sys/user/max_user_namespaces").write_text("15000")
    assert (step.concerns, step.is_done(), step.is_undone()) == (True, True, False)
    (proc / "sys/kernel/unprivileged_userns_clone").write_text("0")  # later, somebody closes the other one
    step.apply()
    assert path.read_text().splitlines() == [
        "user.max_user_namespaces = 15000",
        "kernel.unprivileged_userns_clone = 1",
    ]
    step.undo()
    (proc / "sys/kernel/unprivileged_userns_clone").write_text("1")
    assert (step.concerns, step.is_undone()) == (False, True)


def test_a_change_is_said_before_it_is_made(capsys):
    class Breaks(Counted):
        def apply(self):
            raise HostProblem("it broke")

    with pytest.raises(HostProblem, match="it broke"):
        execute([Breaks(False)], dry_run=False)
    assert "do it" in capsys.readouterr().out


class Undone(Counted):
    def __init__(self, name, order):
        super().__init__(True)
        self.title, self.order = name, order

    def is_undone(self):
        return not self.done

    def undo_commands(self):
        return [f"undo {self.title}"]

    def undo(self):
        self.order.append(self.title)
        self.done = False


def test_steps_are_taken_back_from_the_last_to_the_first(capsys):
    order = []
    steps = [Undone("one", order), Undone("two", order)]
    revert(steps, dry_run=True)
    assert order == []
    revert(steps, dry_run=False)
    assert order == ["two", "one"]
    revert(steps, dry_run=False)
    assert order == ["two", "one"]
    assert capsys.readouterr().out.count("not there") == 2


def test_only_what_setup_made_is_taken_back(tmp_path):
    (tmp_path / "mine").mkdir(mode=0o755)
    assert MakeFolder(str(tmp_path / "mine"), ME).is_undone(), "another mode: not as setup makes it"
    assert MakeUser("root", "/somewhere").is_undone()
    assert MakeUser("nosuchuser", "/var/lib/nsbox").is_undone()
    made = WriteFile("a file", str(tmp_path / "file"), "x", after_undo=[["touch", str(tmp_path / "after")]])
    assert made.is_undone()
    made.apply()
    assert not made.is_undone()
    made.undo()
    assert made.is_undone()
    assert (tmp_path / "after").exists()


def test_the_users_unit_has_nothing_that_only_the_system_can_give():
    text = user_unit_text()
    names = {line.partition("=")[0] for line in text.splitlines() if line[:1].isalpha()}
    assert {"Type", "ExecStart", "ExecReload", "Delegate", "WatchdogSec", "Restart", "KillMode"} <= names
    # For these systemd gives a user's unit a user namespace, in which newuidmap has no power.
    assert not names & {
        "User",
        "ProtectSystem",
        "ProtectHome",
        "PrivateTmp",
        "CapabilityBoundingSet",
        "DevicePolicy",
    }
    assert "NSBOX_STATE_DIR" not in text
    assert "WantedBy=default.target" in text


def test_a_users_service_is_not_roots(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "not by root" in str(CliRunner().invoke(setup, ["--user-service"]).exception)


def test_the_plan():
    def kinds(**wishes):
        wishes = {"ids_only": False, "profile_only": False, "service": False, "restricted": False} | wishes
        return [step.title for step in plan("nsbox", "/var/lib/nsbox", **wishes)]

    base = ["the user nsbox", "65536 subordinate uids and gids for nsbox", "the state folder /var/lib/nsbox"]
    assert kinds() == base
    assert kinds(ids_only=True) == base[1:2]
    assert kinds(restricted=True) == [*base, "the AppArmor profile nsbox"]
    assert kinds(service=True) == [*base, "the systemd unit"]
    assert kinds(profile_only=True) == ["the AppArmor profile nsbox"]


def test_ids_are_given_where_they_lack(tmp_path):
    (tmp_path / "subuid").write_text("other:100000:65536\n")
    (tmp_path / "subgid").write_text(f"other:165536:65536\n{ME}:300000:65536\n")
    step = GiveIds(ME, etc=str(tmp_path))
    assert not step.is_done()
    # One number for both, free in both files; gids are there already.
    assert step.argv() == ["usermod", "--add-subuids=231072-296607", ME]
    (tmp_path / "subuid").write_text(f"{ME}:231072:65536\n")
    assert step.is_done()


def test_the_state_folder_is_checked_for_owner_and_mode(tmp_path):
    step = MakeFolder(str(tmp_path / "state"), ME)
    assert not step.is_done()
    step.apply()
    assert step.is_done()
    os.chmod(step.folder, 0o755)
    assert not step.is_done()
    step.apply()
    assert step.is_done()


def test_a_linked_state_folder_is_refused(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "state").symlink_to("real")
    with pytest.raises(HostProblem, match="symbolic link"):
        MakeFolder(str(tmp_path / "state"), ME).apply()


def test_a_file_is_written_once(tmp_path):
    step = WriteFile("a file", str(tmp_path / "new" / "file"), "text\n", ["touch", str(tmp_path / "after")])
    assert not step.is_done()
    step.apply()
    assert step.is_done()
    assert (tmp_path / "after").exists()


def test_a_failing_tool_is_advice(tmp_path):
    step = WriteFile("a file", str(tmp_path / "file"), "x", ["ls", "/nonexistent/x"])
    with pytest.raises(HostProblem, match="No such file"):
        step.apply()


def test_the_unit_names_this_installation():
    text = unit_text("boxes", "/srv/boxes")
    assert "\nUser=boxes\n" in text
    assert "\nEnvironment=NSBOX_STATE_DIR=/srv/boxes\n" in text
    assert "/usr/local/bin/nsbox serve" not in text.replace("#", "")
    assert text.count("\nExecStart=") == 1


#: systemd.exec(5) of version 252; the last would mount over /proc.
IMPLIES_NO_NEW_PRIVS = frozenset(
    [
        "DynamicUser",
        "LockPersonality",
        "MemoryDenyWriteExecute",
        "PrivateDevices",
        "ProtectClock",
        "ProtectHostname",
        "ProtectKernelLogs",
        "ProtectKernelModules",
        "ProtectKernelTunables",
        "RestrictAddressFamilies",
        "RestrictNamespaces",
        "RestrictRealtime",
        "RestrictSUIDSGID",
        "SystemCallArchitectures",
        "SystemCallFilter",
        "SystemCallLog",
        "ProtectProc",
    ]
)


def test_the_unit_keeps_newuidmap_working():
    settings = [
        line.partition("=")[0] for line in unit_text("nsbox", "/s").splitlines() if line[:1].isalpha()
    ]
    assert not set(settings) & set(IMPLIES_NO_NEW_PRIVS)
    assert "Delegate" in settings


def test_setup_needs_root_and_a_dry_run_does_not(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(setup_steps, "run", lambda argv: pytest.fail(f"ran {argv}"))
    assert "needs root" in str(CliRunner().invoke(setup, []).exception)
    result = CliRunner().invoke(
        setup, ["--user", "nosuchuser", "--state-dir", "/nonexistent/state", "--dry-run"]
    )
    assert result.exit_code == 0
    assert "useradd --system" in result.output
    assert "--add-subuids=" in result.output
    assert "install -d -m 0700" in result.output


def test_ids_for_nobody(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    result = CliRunner().invoke(setup, ["--user", "nosuchuser", "--ids-only"])
    assert "there is no user nosuchuser" in str(result.exception)


def test_the_shipped_unit_is_the_one_at_the_top():
    shipped = setup_units._shipped_unit()
    top = Path(__file__).parents[3] / "nsbox.service"
    assert shipped == top.read_text()


def test_a_service_needs_an_installation(monkeypatch, tmp_path):
    with pytest.raises(HostProblem, match="runs from its sources") as caught:
        setup_units.check_installed(str(tmp_path / "unit"))
    assert "pipx install" in (caught.value.remedy or "")
    (tmp_path / "unit").write_text("")
    setup_units.check_installed(str(tmp_path / "unit"))
