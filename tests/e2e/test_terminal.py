# ruff: noqa: E501 - what runs inside a sandbox is clearest as the line that somebody would type
"""stdin that stays open, WebSockets to processes, and terminals; all of them outlive api."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import socket
import ssl
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import DaemonFactory
from tests.e2e.client import BASE, Api, Sandbox
from tests.e2e.daemon import Daemon
from tests.e2e.websocket import Lost, Output, Refused, Socket, Told
from tests.registries.certificates import Authority

PATIENCE = 60.0
_OPEN: list[Client] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """No socket of a test's clients outlives it."""
    yield
    while _OPEN:
        _OPEN.pop().socket.close()


def begin(sandbox: Sandbox, command: str, **more: Any) -> str:
    answer = sandbox.request("POST", "/processes", {"command": command, **more})
    assert answer.status == 201, answer
    return str(answer.json["id"])


def log(sandbox: Sandbox, key: str) -> bytes:
    return sandbox.request("GET", f"/processes/{key}/logs?raw=true").body


def ended(sandbox: Sandbox, key: str) -> Any:
    return sandbox.request("GET", f"/processes/{key}/wait?timeoutMs=60000").json


class Client:
    """What a client has seen of one process, over as many connections as it took."""

    def __init__(self, sandbox: Sandbox, key: str) -> None:
        self._api, self._path = sandbox.api, f"/sandboxes/{sandbox.id}/processes/{key}/attach"
        self.seen = bytearray()
        self.told: list[Told] = []
        self.taken = 0
        self.open()
        _OPEN.append(self)

    def open(self) -> None:
        headers = [("Authorization", f"Bearer {self._api.key}")]
        url = f"http://{self._api.host}:{self._api.port}{BASE}"
        self.socket = Socket(url, f"{self._path}?offset={len(self.seen)}", headers, PATIENCE)

    def until(self, condition: Callable[[], object]) -> None:
        """Read until it holds. Raises ``Lost``."""
        begun = time.monotonic()
        while not condition():
            assert time.monotonic() - begun < PATIENCE, bytes(self.seen[-2000:])
            for found in self.socket.receive():
                if isinstance(found, Output):
                    assert found.offset == len(self.seen), "a byte is lost or comes twice"
                    self.seen += found.data
                else:
                    self.told.append(found)
                    if found.kind == "stdin":
                        self.taken = found.body["taken"]

    def sees(self, text: bytes) -> None:
        self.until(lambda: text in self.seen)

    def end(self) -> Any:
        self.until(lambda: any(one.kind == "exit" for one in self.told))
        return self.told[-1].body["process"]


# ---- stdin


def test_stdin_in_pieces_and_its_end(sandbox: Sandbox) -> None:
    key = begin(sandbox, "cat; echo over", stdin="open")
    assert sandbox.request("GET", f"/processes/{key}").json["stdin"] == "open"
    one = sandbox.request("POST", f"/processes/{key}/stdin", {"data": "one\n"})
    assert (one.status, one.json) == (200, {"written": 4, "closed": False})
    raw = sandbox.request("POST", f"/processes/{key}/stdin?close=true", raw=b"\xff\x00two\n")
    assert (raw.status, raw.json) == (200, {"written": 6, "closed": True})
    assert ended(sandbox, key)["exitCode"] == 0
    assert log(sandbox, key) == b"one\n\xff\x00two\nover\n"
    late = sandbox.request("POST", f"/processes/{key}/stdin", {"data": "x"})
    assert (late.status, late.code) == (409, "process_ended")


def test_stdin_of_a_process_is_empty_unless_it_was_asked_for(sandbox: Sandbox) -> None:
    key = begin(sandbox, "cat; sleep 60")
    told = sandbox.request("POST", f"/processes/{key}/stdin", {"data": "x"})
    assert (told.status, told.code, told.json["written"]) == (409, "stdin_closed", 0)
    sandbox.request("DELETE", f"/processes/{key}")


def test_a_process_that_does_not_read(sandbox: Sandbox) -> None:
    """It is told how much was taken; the rest goes when it reads, and nothing is lost between."""
    sandbox.out("mkfifo /tmp/gate")
    key = begin(sandbox, "read go < /tmp/gate; cat", stdin="open")
    data = bytes(range(256)) * 1024
    full = sandbox.request("POST", f"/processes/{key}/stdin?timeoutMs=100", raw=data)
    assert (full.status, full.code) == (409, "stdin_full"), full
    written = full.json["written"]
    assert 0 < written < len(data)
    sandbox.out("echo go > /tmp/gate")
    rest = sandbox.request("POST", f"/processes/{key}/stdin?close=true&timeoutMs=30000", raw=data[written:])
    assert rest.json == {"written": len(data) - written, "closed": True}, rest
    assert ended(sandbox, key)["exitCode"] == 0
    assert log(sandbox, key) == data


def test_what_is_refused_is_not_waited_for(sandbox: Sandbox) -> None:
    """Else a client that waits for its room would wait for ever."""
    key = begin(sandbox, "sleep 60")
    client = Client(sandbox, key)
    client.socket.type(b"abc")
    client.until(lambda: client.taken == 3)
    assert [one.body["problem"]["code"] for one in client.told if one.kind == "problem"] == ["stdin_closed"]
    sandbox.request("DELETE", f"/processes/{key}")


def test_stdin_outlives_api(daemon_factory: DaemonFactory) -> None:
    daemon = daemon_factory()
    with daemon.api() as api:
        sandbox = api.sandbox()
        key = begin(sandbox, "cat; echo over", stdin="open")
        assert sandbox.request("POST", f"/processes/{key}/stdin", {"data": "before\n"}).status == 200
        for number in range(2):
            daemon.kill(daemon.api_pid, signal.SIGKILL)
            daemon.wait_ready(30)
            assert sandbox.request("POST", f"/processes/{key}/stdin", {"data": f"{number}\n"}).status == 200
        assert sandbox.request("POST", f"/processes/{key}/stdin", {"close": True}).json["closed"]
        assert ended(sandbox, key)["exitCode"] == 0
        assert log(sandbox, key) == b"before\n0\n1\nover\n"


# ---- WebSocket


def test_streams_over_a_websocket(sandbox: Sandbox) -> None:
    key = begin(sandbox, "read a; echo out $a; echo err $a >&2; cat; exit 3", stdin="open")
    client = Client(sandbox, key)
    client.socket.type(b"1\nrest")
    client.sees(b"err 1\n")
    client.socket.tell("closeStdin")
    told = client.end()
    assert (told["exitCode"], told["id"]) == (3, key)
    assert bytes(client.seen).count(b"out 1\n") == 1
    assert client.taken == 6


def test_who_leaves_kills_nothing_and_comes_back(sandbox: Sandbox) -> None:
    key = begin(sandbox, "while read a; do echo got $a; done; echo over", stdin="open")
    client = Client(sandbox, key)
    client.socket.type(b"1\n")
    client.sees(b"got 1\n")
    client.socket.close()
    assert sandbox.request("POST", f"/processes/{key}/stdin", {"data": "2\n"}).status == 200
    client.open()
    client.sees(b"got 2\n")
    client.socket.tell("signal", signal="TERM")
    assert client.end()["signal"] == "TERM"
    assert bytes(client.seen) == b"got 1\ngot 2\n"


def test_who_may_connect(sandbox: Sandbox, api: Api) -> None:
    key = begin(sandbox, "sleep 60", stdin="open")
    url, path = f"http://{api.host}:{api.port}{BASE}", f"/sandboxes/{sandbox.id}/processes/{key}/attach"

    def attempt(*headers: tuple[str, str], where: str = path) -> str:
        try:
            Socket(url, where, list(headers), PATIENCE).leave()
        except Refused as refused:
            return str(refused)
        return "in"

    mine = ("Authorization", f"Bearer {api.key}")
    page = ("Origin", "https://page.example")
    assert attempt(mine) == "in"
    assert "missing_key" in attempt()
    assert "invalid_key" in attempt(("Authorization", "Bearer nsb_wrong"))
    assert "invalid_key" in attempt(mine, page), "another site's page"
    assert "process_not_found" in attempt(mine, where=path.replace(key, "cmd_0"))

    def ticket(**body: str) -> tuple[str, str]:
        made = sandbox.request("POST", f"/processes/{key}/ticket", body)
        assert made.status == 201, made
        return ("Sec-WebSocket-Protocol", ", ".join(made.json["protocols"]))

    good = ticket(origin="https://page.example")
    assert attempt(good, page) == "in"
    assert "invalid_key" in attempt(good, page), "a ticket is good once"
    assert "invalid_key" in attempt(ticket(origin="https://page.example"), ("Origin", "https://evil.example"))
    assert "invalid_key" in attempt(ticket(), page)
    assert "invalid_key" in attempt(ticket(), where=path.replace(key, "cmd_0"))
    sandbox.request("DELETE", f"/processes/{key}")


def test_who_sends_too_much_is_cut_and_the_process_goes_on(sandbox: Sandbox) -> None:
    key = begin(sandbox, "sleep 300", stdin="open")
    client = Client(sandbox, key)
    with pytest.raises(Lost, match=r"not taken|1013|Broken|reset"):
        for _ in range(64):
            client.socket.type(bytes(16_384))
        client.until(lambda: False)
    client.socket.close()
    client.open()
    client.socket.type(bytes(100_000))
    with pytest.raises(Lost, match=r"1009|Broken|reset"):
        client.until(lambda: False)
    assert sandbox.request("GET", f"/processes/{key}").json["status"] == "running"
    sandbox.request("DELETE", f"/processes/{key}")


# ---- terminals


def test_a_terminal(sandbox: Sandbox) -> None:
    key = begin(sandbox, "sh", terminal={"rows": 30, "columns": 100})
    client = Client(sandbox, key)
    client.socket.type(
        b"tty; stty size; echo $TERM-; test -t 0 && test -t 1 && test -t 2 && echo all; id -u; stat -c %U $(tty)\n"
    )
    client.sees(b"/dev/pts/0\r\n30 100\r\nxterm-256color-\r\nall\r\n")
    client.socket.tell("resize", rows=40, columns=120)
    client.socket.type(b"stty size\n")
    client.sees(b"40 120\r\n")
    client.socket.type(b"sh -c 'echo be''gun; exec sleep 500'\n")
    client.sees(b"begun\r\n")  # so it is in the foreground
    client.socket.type(b"\x03")
    client.socket.type(b"echo al''ive\n")
    client.sees(b"alive\r\n")
    client.socket.type(b"exit 5\n")
    told = client.end()
    assert (told["exitCode"], told["kind"], told["stdin"]) == (5, "terminal", "closed")


def test_a_program_in_a_terminal_is_told_of_a_new_size(sandbox: Sandbox) -> None:
    key = begin(
        sandbox, "trap 'echo now $(stty size)' WINCH; echo ready; while :; do sleep 0.1; done", terminal={}
    )
    client = Client(sandbox, key)
    client.sees(b"ready")
    client.socket.tell("resize", rows=11, columns=22)
    client.sees(b"now 11 22")
    client.socket.type(b"\x03")
    assert client.end()["signal"] == "INT"


def test_all_that_a_terminal_showed_is_there(sandbox: Sandbox) -> None:
    """Also the last of it, from a command that ends right behind."""
    for _ in range(5):
        key = begin(sandbox, "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo $i; done", terminal={})
        client = Client(sandbox, key)
        assert client.end()["exitCode"] == 0
        assert bytes(client.seen) == b"".join(b"%d\r\n" % number for number in range(1, 20_001))


def test_a_terminal_outlives_api(daemon_factory: DaemonFactory) -> None:
    daemon = daemon_factory()
    with daemon.api() as api:
        sandbox = api.sandbox()
        key = begin(sandbox, "sh", terminal={"rows": 24, "columns": 80})
        client = Client(sandbox, key)
        client.socket.type(b"x=kept; i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done\n")
        client.sees(b"line 100\r\n")
        for number in range(3):
            _replace(daemon, client)
            client.socket.type(b"echo $x-%d\n" % number)
            client.sees(b"kept-%d\r\n" % number)
        client.socket.tell("resize", rows=7, columns=70)
        client.socket.type(b"stty size\n")
        client.sees(b"7 70\r\n")
        client.socket.type(b"exit 4\n")
        assert client.end()["exitCode"] == 4
        again = Client(sandbox, key)
        again.end()
        assert again.seen == client.seen, "what is on disk is what was seen"
        for number in range(3000):
            assert b"line %d\r\n" % number in client.seen


def _replace(daemon: Daemon, client: Client) -> None:
    daemon.kill(daemon.api_pid, signal.SIGKILL)
    with pytest.raises(Lost):
        client.until(lambda: False)
    client.socket.close()
    daemon.wait_ready(30)
    client.open()


def test_a_sandbox_that_does_odd_things_to_its_terminal(sandbox: Sandbox) -> None:
    """The spawner killed: the terminal hangs up. /dev/ptmx something else: a clear refusal, no hanging."""
    key = begin(sandbox, "sleep 1; kill -KILL $PPID; sleep 300", terminal={})  # after it is told as started
    told = ended(sandbox, key)
    assert (told["outcome"], told["signal"]) == ("signaled", "HUP")
    sandbox.out("rm /dev/ptmx && mkfifo /dev/ptmx")
    answer = sandbox.request("POST", "/processes", {"command": "sh", "terminal": {}})
    assert answer.status in (409, 422, 503), answer
    assert sandbox.out("echo well") == "well\n"


def test_sizes_are_bounded_and_pipes_have_none(sandbox: Sandbox) -> None:
    wrong = sandbox.request("POST", "/processes", {"command": "sh", "terminal": {"rows": 0}})
    assert (wrong.status, wrong.code) == (422, "invalid_field")
    key = begin(sandbox, "cat", stdin="open")
    client = Client(sandbox, key)
    client.socket.tell("resize", rows=5, columns=5)
    client.until(lambda: any(one.kind == "problem" for one in client.told))
    assert client.told[-1].body["problem"]["code"] == "no_terminal"
    client.socket.tell("closeStdin")
    assert client.end()["exitCode"] == 0


# ---- nsbox shell, on a real terminal


class Terminal:
    """``nsbox shell`` as a user has it: on a pseudo-terminal of this host."""

    def __init__(self, api: Api, *arguments: str, **more: str) -> None:
        self.pid, self.master = pty.fork()
        if not self.pid:
            try:
                fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
                environ = {**os.environ, "NSBOX_URL": api.url, "NSBOX_API_KEY": str(api.key), "TERM": "vt100"}
                environ |= more
                os.execve(sys.executable, [sys.executable, "-m", "nsbox", "shell", *arguments], environ)
            finally:
                os._exit(99)
        self.shown = b""
        self.status: int | None = None

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    def sees(self, text: bytes) -> None:
        until = time.monotonic() + PATIENCE
        while text not in self.shown:
            left = until - time.monotonic()
            assert left > 0, self.shown[-2000:]
            assert select.select([self.master], [], [], left)[0], self.shown[-2000:]
            try:
                more = os.read(self.master, 65_536)
            except OSError:
                more = b""
            assert more, self.shown[-2000:]
            self.shown += more

    def flags(self) -> int:
        """Whether it is in raw mode is seen by its local flags."""
        return int(termios.tcgetattr(self.master)[3])

    def exit(self) -> int:
        try:
            while select.select([self.master], [], [], PATIENCE)[0]:
                more = os.read(self.master, 65_536)
                self.shown += more
                if not more:
                    break
        except OSError:
            pass  # EIO: it has gone
        _, status = os.waitpid(self.pid, 0)
        self.status = os.waitstatus_to_exitcode(status)
        return self.status

    def close(self) -> None:
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.master)


@pytest.fixture
def shell() -> Iterator[Callable[..., Terminal]]:
    made: list[Terminal] = []

    def make(api: Api, *arguments: str, **more: str) -> Terminal:
        made.append(Terminal(api, *arguments, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_shell_as_a_user_has_it(api: Api, sandbox: Sandbox, shell: Callable[..., Terminal]) -> None:
    user = shell(api, sandbox.id, "--", "sh")
    user.sees(b"# ")
    assert not user.flags() & termios.ICANON
    user.type(b"stty size; echo $TERM-; tty\r")
    user.sees(b"33 99\r\nvt100-\r\n/dev/pts/0\r\n")
    fcntl.ioctl(user.master, termios.TIOCSWINSZ, struct.pack("HHHH", 20, 50, 0, 0))
    user.type(b"until [ \"$(stty size)\" = '20 50' ]; do sleep 0.1; done; echo re''sized\r")
    user.sees(b"resized\r\n")
    user.type(b"exit 7\r")
    assert user.exit() == 7


def test_a_shell_left_and_come_back_to(api: Api, sandbox: Sandbox, shell: Callable[..., Terminal]) -> None:
    user = shell(api, sandbox.id, "--", "sh")
    user.sees(b"# ")
    user.type(b"mine=this; echo on''e\r")
    user.sees(b"one\r\n")
    user.type(b"~.")
    assert user.exit() == 0
    key = re.search(rb"--attach (cmd_[0-9a-f]+) ", user.shown)
    assert key is not None, user.shown
    again = shell(api, "--attach", key[1].decode(), sandbox.id)
    again.sees(b"one\r\n")  # what was there before
    again.type(b"echo got-$mine\r")
    again.sees(b"got-this\r\n")
    again.type(b"kill -TERM $$; kill -KILL $$\r")
    assert again.exit() == 128 + signal.SIGKILL


def test_a_shell_comes_back_by_itself(daemon_factory: DaemonFactory, shell: Callable[..., Terminal]) -> None:
    daemon = daemon_factory()
    with daemon.api() as api:
        sandbox = api.sandbox()
        user = shell(api, sandbox.id, "--", "sh")
        user.sees(b"# ")
        user.type(b"x=kept; echo se''t\r")
        user.sees(b"set\r\n")
        for number in range(2):
            daemon.kill(daemon.api_pid, signal.SIGKILL)
            daemon.wait_ready(30)
            # What is typed into a connection that dies is lost, as everywhere: wait for the new one.
            found = sandbox.request("GET", "/processes").json
            assert [one["stdin"] for one in found] == ["open"]
            deadline = time.monotonic() + PATIENCE
            while b"%d-kept" % number not in user.shown and time.monotonic() < deadline:
                user.type(b"echo %d-$x\r" % number)
                if select.select([user.master], [], [], 2)[0]:
                    user.shown += os.read(user.master, 65_536)
            assert b"%d-kept" % number in user.shown
        user.type(b"exit 3\r")
        assert user.exit() == 3


def test_a_shell_that_is_not_possible(api: Api, sandbox: Sandbox, shell: Callable[..., Terminal]) -> None:
    user = shell(api, "sb_none")
    assert user.exit() == 125
    assert b"sandbox_not_found" in user.shown or b"no sandbox" in user.shown, user.shown
    user = shell(api, sandbox.id, "--", "/no/such/program")
    assert user.exit() == 127
    assert b"cannot run /no/such/program" in user.shown


# ---- over https, as behind a reverse proxy


class TlsFront:
    """What stands before an API that others reach: TLS, and the bytes as they are."""

    def __init__(self, api: Api, context: ssl.SSLContext) -> None:
        self._api, self._context = api, context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://localhost:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                raw, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=[raw], daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        self._open.append(raw)
        with contextlib.suppress(OSError), self._context.wrap_socket(raw, server_side=True) as outside:
            inside = socket.create_connection((self._api.host, self._api.port))
            self._open += [outside, inside]
            outside.settimeout(0.02)  # an SSL socket may not be used by two threads at once
            with inside:
                while self._relay(outside, inside):
                    pass

    @staticmethod
    def _relay(outside: ssl.SSLSocket, inside: socket.socket) -> bool:
        try:
            data = outside.recv(65_536)
            if not data:
                return False
            inside.sendall(data)
        except TimeoutError:
            pass
        if select.select([inside], [], [], 0)[0]:
            data = inside.recv(65_536)
            if not data:
                return False
            outside.settimeout(PATIENCE)
            outside.sendall(data)
            outside.settimeout(0.02)
        return True

    def drop(self) -> None:
        """Every connection."""
        while self._open:
            with contextlib.suppress(OSError):
                self._open.pop().shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        self.drop()


@pytest.fixture
def front(api: Api, tmp_path: Path) -> Iterator[tuple[TlsFront, Authority]]:
    authority = Authority(tmp_path / "ca")
    one = TlsFront(api, authority.server())
    yield one, authority
    one.close()


def test_a_shell_over_https(
    api: Api, sandbox: Sandbox, shell: Callable[..., Terminal], front: tuple[TlsFront, Authority]
) -> None:
    """More than a record of TLS at once, and a connection that is lost."""
    tls, authority = front
    trusted = {"NSBOX_URL": tls.url, "SSL_CERT_FILE": str(authority.ca_file)}
    user = shell(api, sandbox.id, "--", "sh", **trusted)
    user.sees(b"# ")
    user.type(b"head -c 200000 /dev/zero | tr '\\0' x; echo; echo don''e\r")
    user.sees(b"done\r\n")
    assert user.shown.count(b"x") >= 200_000
    tls.drop()
    until = time.monotonic() + PATIENCE
    while b"back-again" not in user.shown and time.monotonic() < until:
        user.type(b"echo back-aga''in\r")  # what is typed into a connection that is lost is lost
        if select.select([user.master], [], [], 2)[0]:
            user.shown += os.read(user.master, 65_536)
    assert b"back-again" in user.shown
    user.type(b"exit 5\r")
    assert user.exit() == 5


def test_a_certificate_that_is_not_trusted(
    api: Api, sandbox: Sandbox, shell: Callable[..., Terminal], front: tuple[TlsFront, Authority]
) -> None:
    """Told, and not tried again and again."""
    key = begin(sandbox, "sleep 600", terminal={})
    for arguments in ((sandbox.id,), ("--attach", key, sandbox.id)):
        user = shell(api, *arguments, NSBOX_URL=front[0].url)
        assert user.exit() == 125
        assert b"certificate" in user.shown, user.shown


# ---- in a sandbox that is paused


def test_a_terminal_in_a_sandbox_that_is_paused(sandbox: Sandbox) -> None:
    """The connection stays. What is typed is refused and not kept; what was on its way comes afterwards."""
    key = begin(sandbox, "stty -echo; echo ready; while read line; do echo got-$line; done", terminal={})
    client = Client(sandbox, key)
    client.sees(b"ready")
    if sandbox.request("POST", "/pause").status == 503:
        pytest.skip("no cgroup is delegated here, and pausing needs one")
    client.socket.type(b"lost\n")
    client.until(lambda: any(one.kind == "problem" for one in client.told))
    # Not the last that is told: its room is given back as well.
    problem = next(one for one in client.told if one.kind == "problem")
    assert problem.body["problem"]["code"] == "wrong_state"
    late = Client(sandbox, key)  # one that comes now sees what there was
    late.sees(b"ready")
    assert sandbox.request("POST", "/resume").status == 200
    client.socket.type(b"kept\n")
    client.sees(b"got-kept")
    late.sees(b"got-kept")
    assert b"lost" not in client.seen
    client.socket.tell("signal", signal="KILL")
    assert client.end()["signal"] == "KILL"


def test_typing_wakes_a_sandbox_that_may_be_woken(api: Api) -> None:
    sandbox = api.sandbox(autoResume=True)
    try:
        key = begin(sandbox, "stty -echo; echo ready; while read line; do echo got-$line; done", terminal={})
        client = Client(sandbox, key)
        client.sees(b"ready")
        if sandbox.request("POST", "/pause").status == 503:
            pytest.skip("no cgroup is delegated here, and pausing needs one")
        client.socket.type(b"this\n")
        client.sees(b"got-this")
        assert api.get(sandbox.id)["status"] == "running"
    finally:
        api.kill(sandbox.id)
