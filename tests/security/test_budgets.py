"""What the kernel counts for each user of the host, whom all sandboxes share: nobody takes all of it.

The hoarder is root inside, and so has 65,536 ids to hoard under: a limit for each would bound nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.client import Sandbox
from tests.e2e.daemon import Daemon

#: Takes what it can under many ids, tells how much, and holds it. Python of the default template.
_HOARD = """
import ctypes, fcntl, json, os, signal, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def refused(result):
    if result < 0: raise OSError(ctypes.get_errno(), "")
    return result
pages = []
def inotify():
    refused(libc.inotify_init1(0))
def pipe():
    pages.extend(os.pipe())
    fcntl.fcntl(pages[-1], 1031, 1 << 20)
def process():
    pid = os.fork()
    if pid == 0: time.sleep(100_000)
def queue():
    name = f"/q{os.getpid()}-{len(pages)}".encode(); pages.append(name)
    refused(libc.mq_open(name, os.O_CREAT | os.O_RDWR, 0o600, None))
def pending():
    refused(libc.sigqueue(os.getpid(), 40, 0))
what, ids = globals()[sys.argv[1]], int(sys.argv[2])
signal.pthread_sigmask(signal.SIG_BLOCK, [40])
reader, writer = os.pipe()
for number in range(ids):
    if os.fork() == 0:
        os.setgid(1000 + number); os.setuid(1000 + number)
        got, why = 0, 0
        try:
            while got < 200_000:
                what(); got += 1
        except OSError as error: why = error.errno
        os.write(writer, f"{got} {why}\\n".encode())
        time.sleep(100_000)
said = b""
while said.count(b"\\n") < ids: said += os.read(reader, 4096)
rows = [[int(cell) for cell in line.split()] for line in said.split(b"\\n") if line]
told = {"got": sum(row[0] for row in rows), "why": rows[-1][1]}
with open("/tmp/told.part", "w") as file: json.dump(told, file)
os.rename("/tmp/told.part", "/tmp/told")
time.sleep(100_000)
"""


@pytest.fixture
def pair(daemon: Daemon) -> Iterator[tuple[Sandbox, Sandbox]]:
    with daemon.api() as api:
        both = api.sandbox(), api.sandbox()
        yield both
        for one in both:
            api.kill(one.id)


def hoard(sandbox: Sandbox, kind: str, ids: int) -> dict[str, Any]:
    started = sandbox.request("POST", "/processes", {"command": ["python3", "-c", _HOARD, kind, str(ids)]})
    assert started.status == 201, started
    sandbox.out("while [ ! -e /tmp/told ]; do sleep 0.05; done", timeoutMs=120_000)
    told: dict[str, Any] = json.loads(sandbox.out(["cat", "/tmp/told"]))
    return told


KINDS = {
    "inotify": (None, "inotify instances"),
    "queue": ("msgqueue size", "POSIX message queues"),
    "pending": ("pending signals", "signals that wait"),
}


def unlimited(daemon: Daemon, words: str) -> bool:
    """Whether the host gives the daemon's user no limit of this kind, which could be divided."""
    with open(f"/proc/{daemon.pid}/limits", encoding="ascii") as file:
        (row,) = [line for line in file if line.startswith(f"Max {words} ")]
    return row.removeprefix(f"Max {words}").split()[0] == "unlimited"


@pytest.mark.parametrize("kind", KINDS)
def test_one_does_not_take_it_all(daemon: Daemon, pair: tuple[Sandbox, Sandbox], kind: str) -> None:
    limit, what = KINDS[kind]
    if limit is not None and unlimited(daemon, limit):
        pytest.skip(f"this host's user may have {limit} without limit")
    one, other = pair
    hoarder, neighbour = hoard(one, kind, 8)["got"], hoard(other, kind, 8)["got"]
    print(f"{what}: one took {hoarder} under 8 ids, its neighbour then had {neighbour}")
    assert hoarder > 0
    # Others' sandboxes may have some of it as well; none of those of the tests takes half a share.
    assert neighbour >= hoarder / 2


def test_pipes_are_one_pot_and_go_on_working(pair: tuple[Sandbox, Sandbox]) -> None:
    """The pages of pipes are counted for the host's id alone (pipe-user-pages-soft): who takes all makes the
    same id's new pipes small in every sandbox. Small is not broken."""
    one, other = pair
    taken = hoard(one, "pipe", 1)["got"]
    through = other.out("head -c 8000000 /dev/zero | cat | wc -c", user="1000:1000", cwd="/").strip()
    print(
        f"pipes of 1 MiB: one took {taken}; 8,000,000 bytes through two new pipes of its neighbour: {through}"
    )
    assert (taken > 0, through) == (True, "8000000")
