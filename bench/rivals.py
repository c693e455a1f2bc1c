"""What one would use instead, where it is installed: `true` in a fresh container, on the same files.

Every rival starts from the folder of nsbox's default template, read-only. That flatters them: nsbox mounts a
writable root over it, sets limits and filters system calls, and answers over HTTP. A rival that does not work
here is reported with the reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bench import latency, oci_bundle, podman, proc
from bench.account import Who
from bench.daemon import Daemon
from bench.figures import Figure
from bench.probe import Effort

_TIMER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "spawn_timer.py")
_ROUNDS = 3
_PATIENCE = 180.0


class Way(NamedTuple):
    """A way to run a rival. ``private_cgroups``: shown cgroup v2 alone, by a mount namespace."""

    argv: tuple[str, ...]
    who: Who
    private_cgroups: bool = False

    @property
    def label(self) -> str:
        shown = "as root" if self.who.uid == 0 else f"as {self.who.name}"
        return f"{shown}, with a view of cgroup v2 only" if self.private_cgroups else shown


class Rival(NamedTuple):
    """Something to compare with, and the ways to run it, best first: the first that works is measured."""

    name: str
    title: str
    ways: tuple[Way, ...]


def measure(daemon: Daemon, effort: Effort) -> list[Figure]:
    """`true` by every rival that there is. Of the daemon only the template's folder is used."""
    who, layer = daemon.who, daemon.layer
    with _workplace(who) as work:
        found = [_settled(rival, work) for rival in _rivals(who, layer, work)]
        nsbox = Figure("nsbox", "nsbox over HTTP: create, run a command, kill")
        for turn in range(_ROUNDS):
            _nsbox_round(nsbox, daemon, effort)
            for figure, way in found:
                if way is not None:
                    _round(figure, way, work, effort.runs // _ROUNDS, 1 + turn * effort.runs)
        return [nsbox, *(figure for figure, _ in found), podman.measure(who, layer, work, effort.runs)]


def _nsbox_round(figure: Figure, daemon: Daemon, effort: Effort) -> None:
    """For comparison, in the same minutes as the rivals."""
    client = daemon.client()
    pressure = proc.Pressure()
    lives = [latency.life(daemon, client, daemon.pool, effort.pause) for _ in range(effort.runs // _ROUNDS)]
    figure.add([life[-1] for life in lives], pressure.share(), proc.load())
    client.close()


@contextlib.contextmanager
def _workplace(who: Who) -> Iterator[str]:
    work = tempfile.mkdtemp(prefix="nsbox-rivals-", dir="/var/tmp")
    try:
        os.chown(work, who.uid, who.gid)
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _rivals(who: Who, layer: str, work: str) -> list[Rival]:
    root = Who("root", 0, 0, "/root", by_root=True)
    box = ("--unshare-all", "--die-with-parent", "--ro-bind", layer, "/", "--proc", "/proc", "--dev", "/dev")
    ours = [who, root] if who.by_root else [who]
    return [
        Rival("host_true", "`true` on the host, with no sandbox", (Way(("/bin/true",), who),)),
        Rival("bwrap", "bwrap", tuple(Way(("bwrap", *box, "--tmpfs", "/tmp", "true"), one) for one in ours)),
        *(Rival(name, f"{name} run", _oci_ways(name, ours, layer, work)) for name in ("crun", "runc")),
    ]


def _oci_ways(name: str, accounts: Sequence[Who], layer: str, work: str) -> tuple[Way, ...]:
    ways = []
    for one in accounts:
        place = oci_bundle.make(os.path.join(work, f"{name}-{one.name}"), layer, one)
        argv = (name, "--root", f"{place}/state", "run", "--bundle", place, "nsbox-bench-{n}")
        ways.append(Way(argv, one))
        if name == "crun" and one.by_root and both_cgroups():
            ways.append(Way(argv, one, private_cgroups=True))  # crun refuses hosts with both versions
    return tuple(ways)


def _settled(rival: Rival, work: str) -> tuple[Figure, Way | None]:
    """The figure to fill, and the first way that works, found by trying."""
    figure = Figure(rival.name, rival.title)
    if shutil.which(rival.ways[0].argv[0]) is None:
        figure.missing = "not installed"
        return figure, None
    refusals = []
    for way in rival.ways:
        told = _time(way, work, 1, 0)
        if isinstance(told, list):
            figure.title += f", {way.label}"
            return figure, way
        refusals.append(f"{way.label}: {told}")
    figure.missing = "; ".join(refusals)
    return figure, None


def _round(figure: Figure, way: Way, work: str, runs: int, first: int) -> None:
    pressure = proc.Pressure()
    told = _time(way, work, runs, first)
    if isinstance(told, list):
        figure.add(told, pressure.share(), proc.load())
    else:
        figure.note = f"a round failed: {told}"


def _time(way: Way, work: str, runs: int, first: int) -> list[float] | str:
    """Milliseconds of each run, or why there are none."""
    orders = {"argv": way.argv, "runs": runs, "first": first, "environ": way.who.environment(work)}
    command = [sys.executable, "-I", _TIMER]
    identity = way.who.identity
    if way.private_cgroups:
        command, identity = in_private_cgroups(command, way.who), {}
    try:
        done = subprocess.run(
            command, input=json.dumps(orders), capture_output=True, text=True,
            check=True, cwd=work, timeout=_PATIENCE, **identity,
        )  # fmt: skip
        told = json.loads(done.stdout)
    except subprocess.CalledProcessError as error:
        return str(error.stderr).strip()[-200:] or f"the timer ended with status {error.returncode}"
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return str(error)
    return [float(one) for one in told["times"]] if "times" in told else str(told["error"])


def both_cgroups() -> bool:
    """Whether the host has both versions of cgroups mounted, which crun refuses."""
    return os.path.isdir("/sys/fs/cgroup/unified")


def in_private_cgroups(command: Sequence[str], who: Who) -> list[str]:
    """In a mount namespace of its own: the host's cgroup mounts stay as they are."""
    script = 'mount --bind /sys/fs/cgroup/unified /sys/fs/cgroup && exec "$@"'
    become = ["setpriv", f"--reuid={who.uid}", f"--regid={who.gid}", "--clear-groups"]
    return ["unshare", "--mount", "--propagation=private", "sh", "-c", script, "sh", *become, *command]
