"""Layers of an image become one root: in each way that a kernel may want it, whichever kernel this is.

Before Linux 6.8 many layers go by one page of mount(2)'s options, after it one by one. Both are run here, and
must show the same, so that the older way is not first run on somebody's older kernel.
"""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from nsbox.kernel import mounts
from nsbox.model.image import MAX_LAYERS
from nsbox.oci.digests import layer_name, sha256
from tests.e2e.account import runner
from tests.kernel import outer as starting

pytestmark = pytest.mark.namespaces

#: As long as those that keeper uses: relative to the layers, with a sandbox's whole id.
_BOX = "../sandboxes/sb_" + "x" * 32
#: One more than an image may have: what set-up commands left is a layer on top.
_MOST = MAX_LAYERS + 1


def names(count: int) -> list[str]:
    """Real names of layers, topmost first."""
    return [layer_name(sha256(str(number).encode())) for number in reversed(range(count))]


def mounted(way: str, count: int, do: str = "overlay") -> dict[str, Any]:
    who = runner()
    with starting.folder_of(who) as folder:
        os.makedirs(f"{folder}/layers")
        os.makedirs(f"{folder}/layers/{_BOX}/upper")
        os.makedirs(f"{folder}/layers/{_BOX}/work")
        for number, layer in enumerate(reversed(names(count))):
            os.mkdir(f"{folder}/layers/{layer}")
            for name, text in ((f"n{number}", "x"), ("last", str(number))):
                with open(f"{folder}/layers/{layer}/{name}", "w", encoding="ascii") as file:
                    file.write(text)
        for path, folders, files in os.walk(folder):
            for one in (path, *(os.path.join(path, name) for name in folders + files)):
                os.chown(one, who.uid, who.gid)
        order = {"do": do, "folder": folder, "way": way, "layers": names(count)}
        order |= {"upper": f"{_BOX}/upper", "work": f"{_BOX}/work"}
        return starting.run(order)[-1]


@pytest.mark.parametrize("count", [1, 2, 30, _MOST])
@pytest.mark.parametrize("way", ["overlay", "overlay_by_page"])
def test_every_layer_counts(way: str, count: int) -> None:
    """All are there in their order, and what is written goes on top; nothing else stays mounted."""
    assert mounted(way, count) == {
        "left": 0,
        "names": sorted(["last", "made", *(f"n{number}" for number in range(count))]),
        "last": str(count - 1),
        "upper": ["made"],
        "nodev": True,
        "userxattr": True,
        "volatile": True,
    }


@pytest.mark.parametrize("count", [2, 30, _MOST])
@pytest.mark.parametrize("way", ["stack", "stack_by_page"])
def test_every_layer_counts_where_nothing_is_written(way: str, count: int) -> None:
    """As one tree that is only read, for comparisons and exports."""
    assert mounted(way, count, "stack") == {
        "left": 0,
        "names": sorted(["last", *(f"n{number}" for number in range(count))]),
        "last": str(count - 1),
        "written": errno.EROFS,
    }


def test_more_than_a_page_is_an_error_and_leaves_nothing() -> None:
    assert mounted("overlay_by_page", 140) == {"errno": errno.E2BIG, "left": 0}


def test_an_init_lives_on_the_older_way_too() -> None:
    who = runner()
    with starting.folder_of(who) as folder:
        layers = [f"l{number:027d}" for number in range(_MOST)]
        for layer in layers:
            os.makedirs(f"{folder}/{layer}")
            os.chown(f"{folder}/{layer}", who.uid, who.gid)
        order = {"do": "rootfs", "folder": folder, "layers": layers, "by_page": True}
        seen = starting.run(order)[-1]
    assert set(seen["root"]) >= {"dev", "proc", "sys"}
    assert seen["pid"] == 1


@pytest.mark.parametrize(
    ("release", "expected"),
    [("6.8.0", True), ("6.18.44-fc", True), ("7.0-rc1", True), ("6.7.12", False), ("6.1.0-40-amd64", False)],
)
def test_which_kernel_gets_which(monkeypatch: pytest.MonkeyPatch, release: str, expected: bool) -> None:
    class Uname:
        def __init__(self) -> None:
            self.release = release

    monkeypatch.setattr(os, "uname", Uname)
    assert mounts._takes_layers_one_by_one() is expected
