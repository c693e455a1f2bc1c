"""Real sandboxes whose inits have been taken over, beside one that has not: api and keeper see to the others.

The daemon runs from a copy of the sources whose init, when told to run a certain command, becomes
``tests/hostile/inside.py``. The one other change is that api waits 5 s for a file agent that says nothing
and not 60. ``NSBOX_SOAK``: so many rounds, each with other seeds.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.acceptance.plugin import Say
from tests.conftest import new_key
from tests.e2e.account import CHECKOUT
from tests.e2e.client import Answer, Api, Sandbox
from tests.e2e.daemon import SLOWNESS, Daemon, Residue, open_files, settle, wait_until
from tests.hostile import inside

ROUNDS = min(int(os.environ.get("NSBOX_SOAK") or 2), 100)
KINDS = ("garbage", "frames", "liar", "flood", "half", "rights", "waiting", "agents")
#: The most that a call on a hostile sandbox may take, in seconds: init's patience, twice, and an agent's.
_BOUND = 40.0 * SLOWNESS
#: The most that a command in the sandbox beside them may take. They run on the same two processors.
_NEIGHBOUR = 10.0 * SLOWNESS
#: How much more memory api and keeper may have afterwards, in KiB: what a listing may take, three times over.
_API_GROWS, _KEEPER_GROWS = 64 << 10, 4 << 10

_EDITS = (
    (
        "nsbox/inside/init.py",
        "            self.commands.start(message, descriptors)\n",
        "            hostile.take_over(self, message, descriptors)\n"
        "            self.commands.start(message, descriptors)\n",
    ),
    ("nsbox/inside/init.py", "import agent, channel,", "import agent, hostile, channel,"),
    ("nsbox/host/agents.py", "PATIENCE = 60.0", "PATIENCE = 5.0"),
)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="nsbox-hostile-", dir="/var/tmp") as sources:
        os.chmod(sources, 0o755)
        for name in ("nsbox", "images"):
            if (CHECKOUT / name).is_dir():
                shutil.copytree(
                    CHECKOUT / name, Path(sources, name), ignore=shutil.ignore_patterns("__pycache__")
                )
        shutil.copy(inside.__file__, f"{sources}/nsbox/inside/hostile.py")
        for file, text, instead in _EDITS:
            path = Path(sources, file)
            source = path.read_text(encoding="utf-8")
            assert source.count(text) == 1, f"{file} has not once {text!r}"
            path.write_text(source.replace(text, instead), encoding="utf-8")
        one = Daemon(key=new_key(), sources=sources)
        try:
            yield one.start()
        finally:
            one.close()


class Told(NamedTuple):
    """What came of one call."""

    kind: str
    call: str
    answer: Answer
    took: float


def calls(box: Sandbox) -> dict[str, Callable[[], Answer]]:
    """All that reaches an init or an agent, each from a thread of its own."""
    return {
        "exec": lambda: box.exec("true", timeoutMs=2_000),
        "exec again": lambda: box.exec("cat", stdin="x" * 100_000, timeoutMs=2_000),
        "start": lambda: box.request("POST", "/processes", {"command": "sleep 1", "timeoutMs": 2_000}),
        "processes": lambda: box.request("GET", "/processes"),
        "list": lambda: box.files("GET", "/", list="true"),
        "list all": lambda: box.files("GET", "/", list="true", recursive="true"),
        "read": lambda: box.read("/etc/passwd"),
        "download": lambda: box.download("/etc/passwd"),
        "write": lambda: box.write("/tmp/x", "hello"),
        "upload": lambda: box.upload("/tmp/y", bytes(300_000)),
        "remove": lambda: box.remove("/tmp/x"),
        "kill all": lambda: box.request("DELETE", "/processes"),
    }


def _timed(kind: str, name: str, call: Callable[[], Answer]) -> Told:
    begun = time.monotonic()
    answer = call()
    return Told(kind, name, answer, time.monotonic() - begun)


class Neighbour:
    """Runs one command after the other, and notes how long each took."""

    def __init__(self, api: Api) -> None:
        self._box = api.sandbox()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.took: list[float] = []
        self.wrong: list[object] = []

    def _run(self) -> None:
        while not self._stop.is_set():
            begun = time.monotonic()
            try:
                answer = self._box.exec("echo here")
                if answer.status != 200 or answer.json["stdout"] != "here\n":
                    self.wrong.append(answer)
            except Exception as error:
                self.wrong.append(error)
            self.took.append(time.monotonic() - begun)

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()

    def end(self, api: Api) -> None:
        assert api.kill(self._box.id).status == 200


def memory(pid: int) -> int:
    """Anonymous memory in KiB; not what keeper shares with its forks and comes to own page by page. Of a
    process that is not dumpable an ordinary user may read this, and not smaps_rollup."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon:"))


def attack(api: Api, seed: int) -> list[Told]:
    """One sandbox of each kind, all at once, and all calls on each of them, at once as well."""
    boxes = {kind: api.sandbox() for kind in KINDS}
    with ThreadPoolExecutor(len(KINDS) * 13) as pool:
        # What the command is told to be is begun at once in all; its answer is waited for like the others.
        waiting = [pool.submit(_timed, kind, *_taken_over(box, kind, seed)) for kind, box in boxes.items()]
        for kind, box in boxes.items():
            waiting += [pool.submit(_timed, kind, name, call) for name, call in calls(box).items()]
        told = [one.result() for one in waiting]
        told += pool.map(lambda one: _timed(one[0], "delete", lambda: api.kill(one[1].id)), boxes.items())
    return told


def _taken_over(box: Sandbox, kind: str, seed: int) -> tuple[str, Callable[[], Answer]]:
    return "take over", lambda: box.exec([inside.COMMAND, kind, str(seed)], timeoutMs=2_000)


def warm_up(api: Api) -> None:
    """Every path once, so that what is grown by them is grown."""
    box = api.sandbox()
    with ThreadPoolExecutor(13) as pool:
        list(pool.map(lambda call: call(), calls(box).values()))
    assert api.kill(box.id).status == 200


def test_others_do_not_notice(daemon: Daemon) -> None:
    with daemon.api() as api:
        warm_up(api)
        api.close()
        before = settle(daemon, 30)
        pids = daemon.api_pid, daemon.keeper_pid
        api_before, keeper_before = memory(pids[0]), memory(pids[1])
        neighbour = Neighbour(api)
        told: list[Told] = []
        with neighbour.busy():
            for seed in range(ROUNDS):
                told += attack(api, seed)
        neighbour.end(api)
        api.close()
    slowest = max(told, key=lambda one: one.took)
    print(f"{len(told)} calls; the slowest took {slowest.took:.1f} s: {slowest.kind}, {slowest.call}")
    print(f"beside them {len(neighbour.took)} commands, the slowest {max(neighbour.took):.2f} s")
    for kind in KINDS:
        statuses = sorted({f"{one.call} {one.answer.status}" for one in told if one.kind == kind})
        print(f"{kind}: {', '.join(statuses)}")
    assert (daemon.api_pid, daemon.keeper_pid) == pids, daemon.log()
    assert not neighbour.wrong, neighbour.wrong[:3]
    assert neighbour.took
    assert max(neighbour.took) < _NEIGHBOUR
    assert slowest.took < _BOUND, slowest
    for one in told:
        assert one.answer.status < 500 or one.answer.status in (503, 504), one
        assert one.answer.status < 400 or one.answer.code != "internal", one
    assert {one.answer.status for one in told if one.call == "delete"} == {200}
    assert "Traceback" not in daemon.log(), daemon.log()
    with contextlib.suppress(AssertionError):  # what is left says more than that it is
        wait_until(lambda: not _left(daemon, before), 30)
    assert _left(daemon, before) == {}, open_files(daemon.api_pid)
    grown = memory(pids[0]) - api_before, memory(pids[1]) - keeper_before
    print(f"api {grown[0]:+} KiB, keeper {grown[1]:+} KiB")
    assert grown[0] < _API_GROWS
    assert grown[1] < _KEEPER_GROWS


def test_a_new_api_starts_beside_them(daemon: Daemon, figure: Say) -> None:
    """api is killed, and the next one hears of each init what runs there: of some, anything. It once ended
    when the words of a command were no text, and the daemon with it."""
    with daemon.api() as api:
        honest = api.sandbox()
        boxes = [api.sandbox() for _ in range(3)]
        for seed, box in enumerate(boxes):
            answer = box.exec([inside.COMMAND, "begun", str(seed)], timeoutMs=2_000)
            assert answer.status == 200, answer
        keeper = daemon.keeper_pid
        daemon.kill(daemon.api_pid, signal.SIGKILL)
        daemon.wait_ready(60)
        api.close()
        assert honest.out("echo here") == "here\n"
        for box in boxes:
            answer = box.request("GET", "/processes?all=true")
            assert answer.status in (200, 409), answer
            assert api.kill(box.id).status == 200
        assert daemon.keeper_pid == keeper
        assert api.kill(honest.id).status == 200
        assert "Traceback" not in daemon.log(), daemon.log()
        figure(4, "beside hostile inits", tried=len(boxes))


def _left(daemon: Daemon, before: Residue) -> dict[str, tuple[int, int]]:
    """What there is more of, by its name: how much there was, and is."""
    told = zip(before._fields, before, daemon.residue(), strict=True)
    return {name: (then, now) for name, then, now in told if now > then}
