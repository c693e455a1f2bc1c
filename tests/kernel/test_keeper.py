"""A real keeper, without the rest of the daemon: from an order to a sandbox, and what is left of it after."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from nsbox.inside import channel
from nsbox.wire.messages import (
    FROM_INIT,
    FROM_KEEPER,
    PROTOCOL_VERSION,
    Attached,
    Create,
    Created,
    Destroy,
    Destroyed,
    Exec,
    Failed,
    Gone,
    Hello,
    Refused,
    Welcome,
)  # fmt: skip
from tests.acceptance.plugin import Say
from tests.e2e.account import CHECKOUT, runner
from tests.kernel.test_outer import descendants

pytestmark = pytest.mark.namespaces

_START = """
import json, os, sys
sys.path.insert(0, {home!r})
from nsbox.host import outer
from nsbox import supervisor
from nsbox.keeper.config import Config
uids, gids = supervisor.subordinate_ids()
lifeline, mine = os.pipe2(os.O_CLOEXEC)
announced, announce = os.pipe2(os.O_CLOEXEC)
config = Config(sys.argv[1], 2, "", (), lifeline, announce)
pid = outer.start("nsbox.keeper.main", config.to_json(), uids, gids, (lifeline, announce))
os.close(announce)
print(json.dumps([pid, os.read(announced, 64).decode()]), flush=True)
sys.stdin.read()
os.close(mine)
_, status = os.waitpid(pid, 0)
print(json.dumps(status), flush=True)
"""


class Keeper:
    """One keeper and api's connection to it."""

    def __init__(self, state_dir: str) -> None:
        self.who, self.state_dir = runner(), state_dir
        self.started = subprocess.Popen(
            [self.who.python, "-c", _START.format(home=str(CHECKOUT)), state_dir],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/", text=True,
            **self.who.identity,
        )  # fmt: skip
        assert self.started.stdout is not None
        line = self.started.stdout.readline()
        if not line:
            assert self.started.stderr is not None
            pytest.skip(f"keeper cannot start here: {self.started.stderr.read()[-300:]}")
        self.pid, announced = json.loads(line)
        assert announced == "ready\n"
        self.sock = self.connect("keeper")
        channel.send(self.sock, Hello(PROTOCOL_VERSION))
        welcome = self.hear()
        assert isinstance(welcome, Welcome)
        assert welcome[:3] == (PROTOCOL_VERSION, (), ())
        assert welcome.blanks >= 0

    def connect(self, name: str) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(10)
        sock.connect(f"{self.state_dir}/run/{name}.sock")
        return sock

    def hear(self) -> Any:
        received = channel.receive(self.sock, FROM_KEEPER)
        assert received is not None
        return received[0]

    def ask(self, message: Any) -> Any:
        channel.send(self.sock, message)
        return self.hear()

    def close(self) -> None:
        self.sock.close()
        if self.started.poll() is None:
            assert self.started.stdin is not None
            self.started.stdin.close()
            try:
                self.started.wait(15)
            except subprocess.TimeoutExpired:
                self.started.kill()
        for stream in (self.started.stdin, self.started.stdout, self.started.stderr):
            if stream is not None:
                stream.close()
        self.started.wait()


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    who = runner()
    state_dir = tempfile.mkdtemp(prefix="nsbox-keeper-", dir="/var/tmp")
    os.makedirs(f"{state_dir}/layers/empty")
    os.makedirs(f"{state_dir}/layers/evil")
    os.symlink("/etc", f"{state_dir}/layers/evil/proc")
    os.chmod(state_dir, 0o700)
    for path, folders, names in os.walk(state_dir):
        for one in (path, *(os.path.join(path, name) for name in folders + names)):
            os.chown(one, who.uid, who.gid, follow_symlinks=False)
    made = Keeper(state_dir)
    yield made
    made.close()
    shutil.rmtree(state_dir, ignore_errors=True)


def order(sandbox_id: str, layer: str = "empty") -> Create:
    return Create(sandbox_id, (layer,), "box", 0, 0, 0, 0, "")


def left(keeper: Keeper) -> tuple[list[str], list[str]]:
    """Sockets and folders of sandboxes. Blanks come and go."""
    sockets = [name for name in os.listdir(f"{keeper.state_dir}/run") if name.startswith("sb_")]
    return sockets, os.listdir(f"{keeper.state_dir}/sandboxes")


def test_from_order_to_nothing_left(keeper: Keeper) -> None:
    assert keeper.ask(order("sb_1")) == Created("sb_1", ())
    with keeper.connect("sb_1") as init:
        assert channel.receive(init, FROM_INIT) == (Attached(PROTOCOL_VERSION, 0), [])
        channel.send(init, Exec("k", ("x",), (), "/", "nobody-there"), [0, 1, 2])
        received = channel.receive(init, FROM_INIT)
        assert received is not None
        assert isinstance(received[0], Refused)
        assert received[0].stage == "user"
    assert keeper.ask(Destroy("sb_1")) == Destroyed("sb_1")
    assert left(keeper) == ([], [])
    assert keeper.ask(Destroy("sb_1")) == Destroyed("sb_1")


def test_an_image_that_is_refused_leaves_nothing(keeper: Keeper) -> None:
    answer = keeper.ask(order("sb_1", "evil"))
    assert isinstance(answer, Failed)
    assert (answer.id, answer.stage) == ("sb_1", "root")
    assert keeper.ask(order("sb_2")) == Created("sb_2", ())  # the next is none the worse
    assert keeper.ask(Destroy("sb_2")) == Destroyed("sb_2")
    for _ in range(100):
        if left(keeper) == ([], []):
            return
        select.select([], [], [], 0.02)  # it is answered before the box is dead
    raise AssertionError(left(keeper))


def test_a_missing_layer(keeper: Keeper) -> None:
    answer = keeper.ask(order("sb_1", "missing"))
    assert isinstance(answer, Failed)
    assert answer.stage == "overlay"


def test_an_init_that_dies_is_told_and_the_next_api_knows_who_lives(keeper: Keeper) -> None:
    for name in ("sb_1", "sb_2"):
        assert keeper.ask(order(name)) == Created(name, ())
    with keeper.connect("sb_1") as init:
        # The listener was made by keeper, so SO_PEERCRED would name that: init is found by trying.
        inits = [pid for pid in descendants(keeper.pid) if name_of(pid) == "nsbox-init"]
        assert channel.receive(init, FROM_INIT) == (Attached(PROTOCOL_VERSION, 0), [])
        for pid in inits:
            os.kill(pid, signal.SIGKILL)
            if init_is_gone(init):
                break
    answers = [keeper.hear()]
    while not any(one == Gone("sb_1", 9) for one in answers):
        answers.append(keeper.hear())
    keeper.sock.close()
    keeper.sock = keeper.connect("keeper")
    welcome = keeper.ask(Hello(PROTOCOL_VERSION))
    assert "sb_1" not in welcome.sandboxes


def name_of(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def init_is_gone(sock: socket.socket) -> bool:
    sock.settimeout(0.5)
    try:
        return sock.recv(1) == b""
    except TimeoutError:
        return False


@pytest.mark.parametrize("how", ["kill -9", "lifeline"])
def test_when_keeper_ends_everything_ends(keeper: Keeper, how: str, figure: Say) -> None:
    for name in ("sb_1", "sb_2"):
        assert keeper.ask(order(name)) == Created(name, ())
    family = [keeper.pid, *descendants(keeper.pid)]
    assert len(family) >= 4
    watched = [os.pidfd_open(pid) for pid in family]
    if how == "lifeline":
        assert keeper.started.stdin is not None
        keeper.started.stdin.close()
    else:
        os.kill(keeper.pid, signal.SIGKILL)
    for pidfd in watched:
        ready, _, _ = select.select([pidfd], [], [], 10)
        os.close(pidfd)
        assert ready, "somebody outlived keeper"
    figure(5, tried=len(family))
