"""The commands that speak to a daemon, as somebody types them."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.account import CHECKOUT
from tests.e2e.client import Sandbox
from tests.e2e.daemon import SLOWNESS, Daemon, wait_until

PATIENCE = 120 * SLOWNESS
Run = subprocess.CompletedProcess[str]


class Person:
    """Somebody with a URL and a key, and a home of their own."""

    def __init__(self, daemon: Daemon, home: Path) -> None:
        self._python = daemon.who.python
        self.identity: dict[str, Any] = {}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("NSBOX_", "XDG_"))}
        self.env = {**kept, "HOME": str(home)}
        assert daemon.key is not None
        self.access = {"NSBOX_URL": daemon.url, "NSBOX_API_KEY": daemon.key}

    def command(self, *arguments: str) -> list[str]:
        return [self._python, "-m", "nsbox", *arguments]

    def __call__(self, *arguments: str, status: int = 0, given: str | None = None, **env: str) -> Run:
        done = subprocess.run(
            self.command(*arguments), cwd=CHECKOUT, env={**self.env, **self.access, **env}, input=given,
            stdin=subprocess.DEVNULL if given is None else None,
            capture_output=True, text=True, timeout=PATIENCE, check=False, **self.identity,
        )  # fmt: skip
        assert done.returncode == status, (arguments, done)
        return done

    def begin(self, *arguments: str, **more: Any) -> subprocess.Popen[bytes]:
        more = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
        return subprocess.Popen(
            self.command(*arguments), cwd=CHECKOUT, env={**self.env, **self.access}, **more
        )


@pytest.fixture
def nsbox(daemon: Daemon, tmp_path: Path) -> Person:
    return Person(daemon, tmp_path)


@pytest.fixture
def own_nsbox(own_daemon: Daemon, tmp_path: Path) -> Person:
    return Person(own_daemon, tmp_path)


def test_the_life_of_a_sandbox(nsbox: Person) -> None:
    made = nsbox("create", "--timeout", "900", "--memory", "600", "-e", "A=b c").stdout.strip()
    assert made.startswith("sb_")
    line = next(line for line in nsbox("ps").stdout.splitlines() if made in line)
    assert line.split()[1:6] == ["running", "default", "1", "600", "MiB"]
    assert made in nsbox("ps", "-q").stdout.split()
    shown = json.loads(nsbox("ps", "--json").stdout)
    assert next(one for one in shown if one["id"] == made)["limits"]["storage"]["backend"]
    assert nsbox("exec", made, "--", "sh", "-c", "echo $A").stdout == "b c\n"
    assert nsbox("metrics", made).stdout.startswith("WHAT")
    assert json.loads(nsbox("metrics", made, "--json").stdout)["id"] == made
    one, two = nsbox("fork", "-n", "2", made).stdout.split()
    assert nsbox("kill", one, two, made).stdout.split() == [one, two, made]
    assert made not in nsbox("ps", "-q").stdout.split()
    assert made in nsbox("ps", "-a").stdout
    assert json.loads(nsbox("kill", "--json", made).stdout) == [{"id": made, "status": "stopped"}]
    wrong = nsbox("exec", made, "--", "true", status=125)
    assert wrong.stderr.startswith("nsbox: ")
    assert "Traceback" not in wrong.stderr


def test_pause_and_resume(nsbox: Person, sandbox: Sandbox, daemon: Daemon) -> None:
    if sandbox.request("POST", "/pause").status == 503:
        pytest.skip("this host delegates no cgroup: nothing can be paused")
    assert nsbox("resume", sandbox.id).stdout == f"{sandbox.id}\n"
    assert nsbox("pause", sandbox.id).stdout == f"{sandbox.id}\n"
    assert "remedy: nsbox resume" in nsbox("exec", sandbox.id, "true", status=125).stderr
    assert json.loads(nsbox("resume", sandbox.id, "--json").stdout)[0]["status"] == "running"


# ---- exec


def test_exec_is_as_if_it_were_here(nsbox: Person, sandbox: Sandbox) -> None:
    done = nsbox("exec", sandbox.id, "--", "sh", "-c", "echo out; echo err >&2; exit 7", status=7)
    assert (done.stdout, done.stderr) == ("out\n", "err\n")
    assert nsbox("exec", sandbox.id, "sh", "-c", "kill -TERM $$", status=128 + signal.SIGTERM).stdout == ""
    assert (
        nsbox("exec", "-w", "/tmp", "-e", "A=1", "-u", "root", sandbox.id, "sh", "-c", "pwd; echo $A").stdout
        == "/tmp\n1\n"
    )
    assert nsbox("exec", "--timeout", "0.5", sandbox.id, "sleep", "600", status=124).stdout == ""
    assert "no such" in nsbox("exec", sandbox.id, "nosuchprogram", status=127).stderr.lower()
    assert nsbox("exec", "sb_nosuch", "true", status=125).stderr.splitlines() == [
        "nsbox: there is no sandbox 'sb_nosuch' (HTTP 404)",
        "  remedy: nsbox ps --all",
    ]
    # Options of the command are the command's.
    assert nsbox("exec", sandbox.id, "echo", "--json", "--help").stdout == "--json --help\n"


def test_exec_passes_input_on(nsbox: Person, sandbox: Sandbox) -> None:
    assert nsbox("exec", sandbox.id, "cat", given="piped\n").stdout == "piped\n"
    large = "".join(f"{number}\n" for number in range(400_000))
    assert nsbox(
        "exec", sandbox.id, "sh", "-c", "wc -c; exit 3", given=large, status=3
    ).stdout.strip() == str(len(large))
    # A command that does not read it, or ends first, is no error.
    assert nsbox("exec", sandbox.id, "true", given=large).stderr == ""
    shown = json.loads(nsbox("exec", "--json", sandbox.id, "cat", given="x").stdout)
    assert (shown["stdout"], shown["exitCode"], shown["outcome"]) == ("x", 0, "exited")


def test_exec_begins_before_its_input_ends(nsbox: Person, sandbox: Sandbox) -> None:
    running = nsbox.begin("exec", sandbox.id, "cat", stdin=subprocess.PIPE)
    assert running.stdin is not None
    assert running.stdout is not None
    with running:
        for word in (b"one\n", b"two\n"):
            running.stdin.write(word)
            running.stdin.flush()
            assert running.stdout.readline() == word
        running.stdin.close()
        assert running.wait(PATIENCE) == 0
    # The input's end is not waited for when the command has ended.
    with nsbox.begin("exec", sandbox.id, "true", stdin=subprocess.PIPE) as running:
        assert running.wait(PATIENCE) == 0


def test_a_time_limit_is_the_daemons_also_with_input(nsbox: Person, sandbox: Sandbox) -> None:
    assert nsbox("exec", "--timeout", "0.5", sandbox.id, "sleep", "600", given="x", status=124).stdout == ""
    # Nobody is left here who could keep the time.
    script = ["sh", "-c", "echo begun; exec sleep 601"]
    with nsbox.begin("exec", "--timeout", "3", sandbox.id, *script, stdin=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"begun\n"
        running.kill()

    def ended() -> list[Any]:
        known = sandbox.request("GET", "/processes?all=true").json
        return [
            one["outcome"] for one in known if "601" in str(one["command"]) and one["status"] != "running"
        ]

    wait_until(ended, PATIENCE)
    assert ended() == ["timedOut"]


@pytest.mark.parametrize("given", [subprocess.DEVNULL, subprocess.PIPE])
def test_ctrl_c_is_the_commands(nsbox: Person, sandbox: Sandbox, given: int) -> None:
    script = 'trap "echo caught; exit 5" INT; echo go; while :; do sleep 0.1; done'
    with nsbox.begin("exec", sandbox.id, "sh", "-c", script, stdin=given) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"go\n"
        running.send_signal(signal.SIGINT)
        assert running.stdout.read() == b"caught\n"
        assert running.wait(PATIENCE) == 5


def test_the_third_ctrl_c_leaves(nsbox: Person, sandbox: Sandbox) -> None:
    script = 'trap "echo caught" INT; echo go; while :; do sleep 0.1; done'
    with nsbox.begin("exec", sandbox.id, "sh", "-c", script) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"go\n"
        for _ in range(2):
            running.send_signal(signal.SIGINT)
            assert running.stdout.readline() == b"caught\n"
        running.send_signal(signal.SIGINT)
        assert running.wait(PATIENCE) == 128 + signal.SIGINT
    assert len(sandbox.request("GET", "/processes").json) == 1


def test_who_reads_no_further_ends_the_command(nsbox: Person, sandbox: Sandbox) -> None:
    """As in a pipe: `yes | head -1`."""
    with nsbox.begin("exec", sandbox.id, "yes") as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"y\n"
        running.stdout.close()
        assert running.wait(PATIENCE) == 128 + signal.SIGPIPE
        assert running.stderr is not None
        assert running.stderr.read() == b""
    wait_until(lambda: sandbox.request("GET", "/processes").json == [], 60, "the end of the command")


def test_exec_while_api_is_killed(own_nsbox: Person, own_daemon: Daemon) -> None:
    """The numbers come on, each once. Twice the command waits until an api was killed and replaced."""
    made = own_nsbox("create").stdout.strip()
    count = (
        "i=0; while [ $i -lt 4000 ]; do echo $i; i=$((i+1)); case $i in 100|2000) wait_for /go$i;; esac; done"
    )
    script = (
        "wait_for() { while [ ! -e $1 ]; do sleep 0.05; done; }; echo run >> /runs; "
        + count
        + "; echo over >&2; exit 9"
    )
    with own_nsbox.begin("exec", made, "sh", "-c", script) as running:
        assert running.stdout is not None
        seen = []
        for line in running.stdout:
            seen.append(int(line))
            if len(seen) in (100, 2000):
                own_daemon.kill(own_daemon.api_pid, signal.SIGKILL)
                own_daemon.wait_ready()
                own_nsbox("cp", "-", f"{made}:/go{len(seen)}", given="")
        assert running.wait(PATIENCE) == 9
        assert running.stderr is not None
        assert running.stderr.read() == b"over\n"
    assert seen == list(range(4000))
    assert own_nsbox("cp", f"{made}:/runs", "-").stdout == "run\n"
    assert own_nsbox("kill", made)


def test_a_daemon_that_is_not_there_is_told_soon(nsbox: Person) -> None:
    begun = time.monotonic()
    told = nsbox("ps", status=1, NSBOX_URL="http://127.0.0.1:1").stderr
    assert told == "nsbox: http://127.0.0.1:1 cannot be reached: Connection refused\n"
    assert time.monotonic() - begun < 20 * SLOWNESS


# ---- logs, ports


def test_logs(nsbox: Person, sandbox: Sandbox) -> None:
    assert "no processes" in nsbox("logs", sandbox.id, status=1).stderr
    nsbox("exec", sandbox.id, "sh", "-c", "echo one; echo two >&2")
    done = nsbox("logs", sandbox.id)
    assert (done.stdout, done.stderr) == ("one\n", "two\n")
    key = sandbox.request(
        "POST", "/processes", {"command": "echo a; while [ ! -e /go ]; do sleep 0.05; done; echo b"}
    ).json["id"]
    with nsbox.begin("logs", "-f", sandbox.id, key) as following:
        assert following.stdout is not None
        assert following.stdout.readline() == b"a\n"
        sandbox.write("/go", "")
        assert following.stdout.read() == b"b\n"
        assert following.wait(PATIENCE) == 0
    assert nsbox("logs", sandbox.id, key, "--offset", "2").stdout == "b\n"
    listed = nsbox("logs", "-l", sandbox.id).stdout
    assert key in listed
    assert json.loads(nsbox("logs", "--list", "--json", sandbox.id).stdout)[0]["kind"] == "stream"


def test_ports(nsbox: Person, sandbox: Sandbox) -> None:
    url = nsbox("ports", sandbox.id, "8080", "--private").stdout.strip()
    assert url.startswith("http://")
    assert nsbox("ports", sandbox.id).stdout.splitlines()[1].split() == ["8080", "http", "private", url]
    assert nsbox("ports", sandbox.id, "8080", "--link", "60").stdout.startswith(url)
    assert json.loads(nsbox("ports", "--json", sandbox.id).stdout)[0]["port"] == 8080
    assert nsbox("ports", sandbox.id, "8080", "--close").stdout == "8080\n"
    assert nsbox("ports", sandbox.id, "8080", "--close", status=1).stderr.startswith("nsbox: ")


# ---- cp


def test_files_are_copied(nsbox: Person, sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\x00\xffa\n")
    (tmp_path / "a").chmod(0o750)
    nsbox("cp", str(tmp_path / "a"), f"{sandbox.id}:/new/b")
    assert sandbox.out("stat -c %a /new/b") == "750\n"
    nsbox("cp", str(tmp_path / "a"), f"{sandbox.id}:/new")  # below it, as it is a folder
    nsbox("cp", str(tmp_path / "a"), f"{sandbox.id}:/other/")
    nsbox("cp", f"{sandbox.id}:/new/a", str(tmp_path / "back"))
    (tmp_path / "sub").mkdir()
    nsbox("cp", f"{sandbox.id}:/other/a", str(tmp_path / "sub"))  # so is this
    for copy in ("a", "back", "sub/a"):
        assert (tmp_path / copy).read_bytes() == b"\x00\xffa\n"
    nsbox("cp", "-", f"{sandbox.id}:/in", given="from a pipe\n")
    assert nsbox("cp", f"{sandbox.id}:/in", "-").stdout == "from a pipe\n"
    shown = json.loads(nsbox("cp", "--json", f"{sandbox.id}:/in", str(tmp_path / "c")).stdout)
    assert shown["bytes"] == 12


def tree(folder: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = ("link", os.readlink(path))
        else:
            found[name] = path.read_bytes() if path.is_file() else "folder", path.stat().st_mode & 0o777
    return found


def test_folders_are_copied(nsbox: Person, sandbox: Sandbox, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep" / "er").mkdir(parents=True)
    (source / "empty").mkdir()
    (source / "deep" / "er" / "file with ü").write_bytes(os.urandom(200_000))
    (source / "run").write_text("#!/bin/sh\n")
    (source / "run").chmod(0o755)
    (source / "closed").mkdir(mode=0o500)
    (source / "link").symlink_to("deep/er")
    nsbox("cp", str(source), f"{sandbox.id}:/copy")
    nsbox("cp", str(source), f"{sandbox.id}:/copy")  # below it, now that it is there
    assert sandbox.out("ls -A /copy /tmp").split() == [
        "/copy:",
        "closed",
        "deep",
        "empty",
        "link",
        "run",
        "source",
        "/tmp:",
    ]
    nsbox("cp", f"{sandbox.id}:/copy/source", str(tmp_path / "back"))
    nsbox("cp", f"{sandbox.id}:/copy/source", str(tmp_path))  # below it
    assert tree(tmp_path / "back") == tree(source)
    assert sandbox.out("stat -c %u /copy/run") == "0\n"


def test_a_folder_of_a_hostile_sandbox(nsbox: Person, sandbox: Sandbox, tmp_path: Path) -> None:
    """Its tar is what it likes; here it writes names that lead elsewhere."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "target").mkdir()
    for names in (["../outside/x"], [str(outside / "x")], ["l/x"]):
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            if names == ["l/x"]:
                link = tarfile.TarInfo("l")
                link.type, link.linkname = tarfile.SYMTYPE, str(outside)
                tar.addfile(link)
            for name in names:
                member = tarfile.TarInfo(name)
                member.size = 4
                tar.addfile(member, io.BytesIO(b"evil"))
        sandbox.upload("/evil.tar", archive.getvalue())
        sandbox.write("/usr/local/bin/tar", '#!/bin/sh\ncp /evil.tar "$2"\n', mode="0755")
        sandbox.run("mkdir -p /f")
        done = subprocess.run(
            nsbox.command("cp", f"{sandbox.id}:/f", str(tmp_path / "target")), cwd=CHECKOUT,
            env={**nsbox.env, **nsbox.access}, capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr
        assert list(outside.iterdir()) == []


@pytest.mark.parametrize("pair", [("a", "b"), ("sb_1:/a", "sb_2:/b"), ("sb_1:a", "b")])
def test_what_cannot_be_copied(nsbox: Person, pair: tuple[str, str]) -> None:
    assert "Usage" in nsbox("cp", *pair, status=2).stderr


# ---- which daemon


def test_a_context_for_life(nsbox: Person, daemon: Daemon, sandbox: Sandbox, tmp_path: Path) -> None:
    url, key = nsbox.access["NSBOX_URL"], nsbox.access["NSBOX_API_KEY"]
    nsbox.access = {}
    assert "nsbox context add" in nsbox("ps", status=1).stderr
    assert nsbox("context", "add", "home", url, given=key + "\n").stderr == "home is the current context\n"
    (tmp_path / "key").write_text(key)
    nsbox("context", "add", "work", url, "--key-file", str(tmp_path / "key"))
    file = tmp_path / ".config" / "nsbox" / "contexts.json"
    assert file.stat().st_mode & 0o7777 == 0o600
    assert sandbox.id in nsbox("ps").stdout
    assert sandbox.id in nsbox("ps", "--context", "work").stdout
    assert sandbox.id in nsbox("ps", NSBOX_CONTEXT="work").stdout
    listed = nsbox("context", "list").stdout + nsbox("context", "list", "--json").stdout
    assert "work" in listed
    assert key not in listed
    nsbox("context", "use", "work")
    nsbox("context", "remove", "work")
    assert "no daemon is named" in nsbox("ps", status=1).stderr
    wrong = nsbox("context", "add", "x", url, given="nsbox_some-other-key\n", status=1).stderr
    assert "does not know this key" in wrong
    assert "nsbox_some-other-key" not in wrong
    file.chmod(0o640)
    told = nsbox("ps", "--context", "home", status=1).stderr
    assert "others may read it" in told
    assert f"chmod 600 {file}" in told


def test_completion_knows_commands_contexts_and_sandboxes(nsbox: Person, sandbox: Sandbox) -> None:
    def completed(*words: str, last: str = "") -> list[str]:
        line = {
            "_NSBOX_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(["nsbox", *words, last]),
            "COMP_CWORD": str(len(words) + 1),
        }
        return [one.partition(",")[2] for one in nsbox(**line).stdout.split()]

    assert {"ps", "exec", "cp"} <= set(completed())
    assert completed(last="co") == ["context", "completion"]
    assert sandbox.id in completed("exec")
    assert completed("kill", last=sandbox.id[:-1]) == [sandbox.id]
    for shell in ("bash", "zsh", "fish"):
        assert "_NSBOX_COMPLETE" in nsbox("completion", shell).stdout


#: What somebody types before Tab, in each shell, and how it is seen what Tab would offer. zsh cannot be asked
#: without a terminal, so that which shows the candidates is replaced.
SHELLS = {
    "bash": """
eval "$(nsbox completion bash)"
complete -p nsbox >/dev/null || exit 3
COMP_WORDS=(nsbox kill ""); COMP_CWORD=2; _nsbox_completion nsbox; printf '%s\\n' "${COMPREPLY[@]}"
""",
    "zsh": """
autoload -Uz compinit; compinit -u -D
eval "$(nsbox completion zsh)"
[ "$_comps[nsbox]" = _nsbox_completion ] || exit 3
compadd() { printf '%s\\n' "$@" }
_describe() { printf '%s\\n' "${(@)completions_with_descriptions%%:*}" }
words=(nsbox kill ""); CURRENT=3; _nsbox_completion
""",
    "fish": """
nsbox completion fish | source
complete --do-complete "nsbox kill "
""",
}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_takes_the_script(nsbox: Person, sandbox: Sandbox, tmp_path: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    program = tmp_path / "nsbox"
    program.write_text(f'#!/bin/sh\nexec {" ".join(nsbox.command())} "$@"\n')
    program.chmod(0o755)
    env = {**nsbox.env, **nsbox.access, "PATH": f"{tmp_path}:{os.environ['PATH']}", "TERM": "dumb"}
    done = subprocess.run(
        [shell, "-c", SHELLS[shell]],
        cwd=CHECKOUT, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    if "nosort" in done.stderr:
        pytest.skip("this bash is older than 4.4")
    assert sandbox.id in done.stdout.split(), done


def test_commands_for_this_host_heed_a_context_too(nsbox: Person, daemon: Daemon) -> None:
    """Else `nsbox image list` would start a daemon of its own here. Not as root, who would become
    the service user, whose contexts are others."""
    with tempfile.TemporaryDirectory(prefix="nsbox-home-", dir="/var/tmp") as home:
        os.chown(home, daemon.who.uid, daemon.who.gid)
        access, state = nsbox.access, f"{home}/state"
        nsbox.access, nsbox.identity = {"HOME": home, "NSBOX_STATE_DIR": state}, daemon.who.identity
        nsbox("context", "add", "--no-check", "far", access["NSBOX_URL"], given=access["NSBOX_API_KEY"])
        assert nsbox("image", "list").stdout.startswith("IMAGE")
        assert nsbox("snapshot", "list", "--json").stdout.startswith("[")
        assert not os.path.exists(state)
