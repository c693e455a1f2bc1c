"""Two images from a layout folder to a tree: nsbox, and `skopeo copy` with `umoci unpack --rootless`.

Both start from an OCI layout and end with the layer's tree: both read and verify the blob, keep a copy of it
in a store, and unpack that. nsbox besides waits until everything is on disk, and its files get their owners.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from bench import images, proc
from bench.account import Who
from bench.daemon import Daemon
from bench.figures import Figure, Target
from bench.images import Image
from bench.probe import Effort

_TIMER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "unpack_timer.py")
_ROOT = os.path.dirname(os.path.dirname(_TIMER))
_PATIENCE = 300.0
_MOST_RSS = 100.0  # MiB
#: How many times as fast as skopeo and umoci.
_BIG_TARGET, _SMALL_TARGET = 1.0, 3.0


def measure(daemon: Daemon, effort: Effort) -> list[Figure]:
    """Of the daemon only its account is used: unpacking is done below a keeper of our own."""
    who, rounds = daemon.who, 1 if effort.rounds < 3 else 3
    figures = []
    with _workplace(who) as work:
        for name, make, least in (("big", images.big, _BIG_TARGET), ("small", images.small, _SMALL_TARGET)):
            image = make(os.path.join(work, name))
            for path, folders, files in os.walk(image.layout):
                for one in (path, *(os.path.join(path, item) for item in folders + files)):
                    os.chown(one, who.uid, who.gid)
            figures += _compared(name, image, who, work, rounds, least)
    return figures


def _compared(name: str, image: Image, who: Who, work: str, rounds: int, least: float) -> list[Figure]:
    what = f"{name}: {image.size / 1e6:.0f} MB, {image.compressed / 1e6:.0f} MB as gzip"
    ours = Figure(f"unpack_{name}", f"nsbox, {what}")
    alone = Figure(f"unpack_{name}_alone", "of that, unpacking and having it on disk")
    memory = Figure(f"unpack_{name}_rss", "peak RSS of the unpacker", "MiB", Target(_MOST_RSS))
    theirs = Figure(f"umoci_{name}", "skopeo copy + umoci unpack --rootless")
    ratio = Figure(f"unpack_{name}_ratio", "as fast as these", "times", Target(least, least=True))
    for _ in range(rounds):
        os.sync()  # neither pays for what was written before
        pressure = proc.Pressure()
        told = _nsbox(image, who, work)
        other = _rival(image, who, work)
        waiting, load = pressure.share(), proc.load()
        ours.add([told["ms"]], waiting, load)
        alone.add([told["unpack_ms"]], waiting, load)
        memory.add([told["peak_kib"] / 1024], waiting, load)
        ours.note = f"{told['entries']:.0f} entries, {told['bytes'] / 1e6:.0f} MB of files"
        if isinstance(other, str):
            theirs.missing = ratio.missing = other
        else:
            theirs.add([other], waiting, load)
            ratio.add([other / told["ms"]], waiting, load)
    return [ours, alone, memory, theirs, ratio]


@contextlib.contextmanager
def _workplace(who: Who) -> Iterator[str]:
    """What root can remove stays until the end: ext4 passes over inodes that were freed a moment ago, one by
    one, and whoever comes after a removal would be several times slower.
    """
    work = tempfile.mkdtemp(prefix="nsbox-unpack-", dir="/var/tmp")
    try:
        os.chown(work, who.uid, who.gid)
        yield work
    finally:
        # umoci leaves folders as read-only as the image has them.
        subprocess.run(["chmod", "-R", "u+rwX", work], capture_output=True, check=False)
        shutil.rmtree(work, ignore_errors=True)


def _nsbox(image: Image, who: Who, work: str) -> dict[str, float]:
    state = tempfile.mkdtemp(prefix="state-", dir=work)
    os.chown(state, who.uid, who.gid)
    turn = {"blob": image.blob, "digest": image.digest, "diff_id": image.diff_id}
    order = {"state": state, "turns": [turn], "keep": who.by_root}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "bench.unpack_timer"],
        input=json.dumps(order), capture_output=True, text=True, check=False, timeout=_PATIENCE, cwd=_ROOT,
        env=who.environment(work) | {"PYTHONPATH": _ROOT}, **who.identity,
    )  # fmt: skip
    if done.returncode:
        raise OSError(f"nsbox could not unpack: {done.stderr.strip()[-300:]}")
    found: dict[str, float] = json.loads(done.stdout)[0]
    return found


def _rival(image: Image, who: Who, work: str) -> float | str:
    """Milliseconds, or why there are none."""
    for program in ("skopeo", "umoci"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    place = tempfile.mkdtemp(prefix="rival-", dir=work)
    os.chown(place, who.uid, who.gid)
    store, bundle = os.path.join(place, "store"), os.path.join(place, "bundle")
    commands = (
        ["skopeo", "--insecure-policy", "copy", "--quiet", f"oci:{image.layout}:it", f"oci:{store}:it"],
        ["umoci", "unpack", "--rootless", "--image", f"{store}:it", bundle],
    )
    begun = time.perf_counter()
    try:
        for command in commands:
            subprocess.run(
                command, capture_output=True, text=True, check=True, timeout=_PATIENCE, cwd=work,
                env=who.environment(work), **who.identity,
            )  # fmt: skip
        return (time.perf_counter() - begun) * 1000
    except subprocess.CalledProcessError as error:
        return f"{error.cmd[0]}: {str(error.stderr).strip()[-200:]}"
    except subprocess.TimeoutExpired:
        return f"took more than {_PATIENCE:.0f} s"
