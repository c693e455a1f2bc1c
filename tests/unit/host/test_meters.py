"""What is read of a sandbox's cgroup, on a folder that looks like one."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from nsbox.host import meters
from nsbox.model.metrics import Reading
from nsbox.model.sandbox import Backend, Storage
from nsbox.service.meters import KEPT, Ring

_DEV = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  eth0:    2500      20    0    0    0     0          0         0      700       9    0    0    0     0       0          0
"""  # noqa: E501


def _put(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("_", ".", 1)).write_text(content)


def test_all_there(tmp_path: Path) -> None:
    box, proc = tmp_path / "box", tmp_path / "proc"
    _put(
        box,
        cpu_stat="usage_usec 1500\nuser_usec 1000\nsystem_usec 500\nthrottled_usec 7\n",
        memory_current="4096\n",
        memory_peak="8192\n",
        io_stat="8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n8:16 rbytes=1 wbytes=2\n",
        pids_current="3\n",
    )
    (box / "memory.swap.current").write_text("0\n")
    _put(box / "init", cgroup_procs="77\n")
    (proc / "77/net").mkdir(parents=True)
    (proc / "77/net/dev").write_text(_DEV)
    assert meters.read(str(box), str(proc)) == Reading(
        cpu_us=1500,
        throttled_us=7,
        memory=4096,
        memory_peak=8192,
        swap=0,
        io_read=11,
        io_written=22,
        processes=3,
        received=2500,
        sent=700,
    )


def test_a_host_without_controllers_tells_what_it_can(tmp_path: Path) -> None:
    _put(tmp_path / "box", cpu_stat="usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n")
    assert meters.read(str(tmp_path / "box"), str(tmp_path)) == Reading(cpu_us=1500)
    assert meters.read("") == Reading()
    assert meters.read(str(tmp_path / "gone")) == Reading()


def test_the_disk(tmp_path: Path) -> None:
    place = tmp_path / "sandboxes/sb_a"
    watched = Storage(Backend.WATCHED, 1, 1)
    assert meters.disk(str(tmp_path), "sb_a", watched) is None
    _put(place, used=f"{5:20d} {6:20d}")
    assert meters.disk(str(tmp_path), "sb_a", watched) == (5, 6)
    (place / "used").write_text("5")
    assert meters.disk(str(tmp_path), "sb_a", watched) is None
    assert meters.disk(str(tmp_path), "sb_a", Storage(Backend.TMPFS, 1, 1)) is None
    assert meters.disk(str(tmp_path), "sb_a", None) is None
    size, inodes = meters.disk(str(tmp_path), "sb_a", Storage(Backend.QUOTA, 1, 1)) or (0, 0)
    assert size > 0
    assert inodes >= 0


@given(count=st.integers(0, 3 * KEPT + 1), unknown=st.sets(st.integers(0, 3 * KEPT)))
def test_a_ring_keeps_the_last(count: int, unknown: set[int]) -> None:
    readings = [Reading(cpu_us=None if one in unknown else one, inodes=one << 40) for one in range(count)]
    ring = Ring()
    for at, reading in enumerate(readings):
        ring.add(at, reading)
    assert ring.all() == list(enumerate(readings))[-KEPT:]
