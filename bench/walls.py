"""What each wall costs: creates and execs beside a daemon whose sources lack that one wall, in turn.

The product has no switch for any of them. Each is taken out of a copy of the sources, as
``sh scripts/defences`` does, and the copy is removed afterwards.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from bench.client import Client
from bench.daemon import Daemon, running
from bench.figures import Figure
from bench.probe import Effort, Probe, now_ms, sample
from nsbox.model.errors import HostProblem


class Wall(NamedTuple):
    """``edits``: file, its text, and what stands there without the wall."""

    name: str
    title: str
    edits: tuple[tuple[str, str, str], ...]


WALLS: Final = (
    Wall("nothing", "nothing: two daemons with all walls", ()),
    Wall(
        "filters",
        "the system call filters",
        (
            ("nsbox/inside/privileges.py", "libc.seccomp_filter(program)", "pass"),
            ("nsbox/inside/spawner.py", "libc.seccomp_filter(guard)", "pass"),
        ),
    ),
    Wall(
        "masks",
        "masked and read-only paths",
        (
            (
                "nsbox/inside/rootfs.py",
                'mounts.mask(STAGING + path, f"{STAGING}/dev/null", f"{STAGING}/empty")',
                "pass",
            ),
            ("nsbox/inside/rootfs.py", "mounts.make_readonly(STAGING + path)", "pass"),
        ),
    ),
    Wall(
        "budgets",
        "budgets of the user namespace, and their division",
        (
            ("nsbox/inside/rootfs.py", '_write_budget(f"{STAGING}/proc/sys/user/{name}", value)', "pass"),
            ("nsbox/keeper/zygote.py", "    os.seteuid(owner)", "    pass"),
        ),
    ),
    Wall(
        "capabilities",
        "capabilities given up",
        (
            ("nsbox/inside/privileges.py", "capabilities.confine(gone)", "pass"),
            ("nsbox/inside/privileges.py", "capabilities.release(gone)", "pass"),
        ),
    ),
    Wall(
        "descriptors",
        "descriptors closed before each command",
        (("nsbox/inside/spawner.py", "libc.close_range(3, flags=libc.CLOSE_RANGE_CLOEXEC)", "pass"),),
    ),
    Wall(
        "rehearsal",
        "no wall: the rehearsal of an idle init",
        (("nsbox/keeper/zygote.py", "rehearse(mould, layout.RUN)", "pass"),),
    ),
)


def measure(daemon: Daemon, effort: Effort) -> list[Figure]:
    """Each wall in turn: a second daemon beside ``daemon`` that lacks it."""
    found: list[Figure] = []
    for wall in WALLS:
        with _weakened(wall) as sources, running(daemon.who, daemon.pool, sources=sources) as without:
            found += _pairs(wall, daemon, without, effort)
    return found


@contextlib.contextmanager
def _weakened(wall: Wall) -> Iterator[str]:
    """A copy of the sources without ``wall``, where every account can read it."""
    here = Path(__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory(prefix="nsbox-walls-", dir="/var/tmp") as folder:
        os.chmod(folder, 0o755)
        for name in ("nsbox", "images"):
            shutil.copytree(here / name, Path(folder, name), ignore=shutil.ignore_patterns("__pycache__"))
        for file, text, instead in wall.edits:
            take_out(Path(folder, file), text, instead)
        yield folder


def take_out(path: Path, text: str, instead: str) -> None:
    """Raises ``HostProblem`` when the sources are no longer those that this file was written for."""
    source = path.read_text(encoding="utf-8")
    if source.count(text) != 1:
        raise HostProblem(f"{path.name} has not once {text!r}")
    path.write_text(source.replace(text, instead), encoding="utf-8")


def _pairs(wall: Wall, whole: Daemon, without: Daemon, effort: Effort) -> list[Figure]:
    """A create and an exec of each, one right after the other; who begins changes. A wall costs the median of
    the differences of neighbours."""
    both = [(whole, whole.client()), (without, without.client())]
    boxes = [client.create() for _, client in both]
    figures = tuple(
        Figure(f"walls_{wall.name}_{what}", f"{what}: what it costs to have {wall.title}")
        for what in ("create", "exec")
    )
    begins = [0]

    def once() -> tuple[float, ...]:
        begins[0] ^= 1
        order = (0, 1) if begins[0] else (1, 0)
        creates, execs = [0.0, 0.0], [0.0, 0.0]
        for which in order:
            creates[which] = _create(*both[which], effort.pause)
        for which in order:
            begun = now_ms()
            both[which][1].run(boxes[which], ["true"])
            execs[which] = now_ms() - begun
        return creates[0] - creates[1], execs[0] - execs[1]

    found = sample([Probe(figures, once, effort.samples)], effort.rounds)
    for (_, client), box in zip(both, boxes, strict=True):
        client.kill(box)
        client.close()
    return found


def _create(daemon: Daemon, client: Client, pause: float) -> float:
    daemon.wait_for_inits(daemon.pool + 1)  # the stock, and the box that the execs go to
    time.sleep(pause)
    begun = now_ms()
    box = client.create()
    took = now_ms() - begun
    client.kill(box)
    return took
