"""The root of a sandbox: what an image may not do to it, and what is seen from within."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

from nsbox.plan import baseline
from tests.e2e.account import runner
from tests.kernel import outer as starting

pytestmark = pytest.mark.namespaces

Maker = Callable[[str], None]


def enter(make: Maker) -> dict[str, Any]:
    """What happens in a sandbox whose image ``make`` has filled."""
    who = runner()
    with starting.folder_of(who) as folder:
        layer = f"{folder}/layer"
        os.mkdir(layer)
        make(layer)
        for path, folders, names in os.walk(layer):
            for one in (path, *(os.path.join(path, name) for name in folders + names)):
                os.chown(one, who.uid, who.gid, follow_symlinks=False)
        return starting.run({"do": "rootfs", "folder": folder})[-1]


def plain(layer: str) -> None:
    for name in ("dev", "proc", "sys", "etc"):
        os.mkdir(f"{layer}/{name}")


def nothing(layer: str) -> None:
    """An image from scratch has none of the three: they are made."""


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    return enter(plain)


@pytest.mark.parametrize("name", ["dev", "proc", "sys"])
@pytest.mark.parametrize(
    "what", ["link to a folder", "link to the root", "absolute link", "dangling link", "file", "fifo"]
)
def test_an_image_that_laid_something_else_there_is_refused(name: str, what: str) -> None:
    def make(layer: str) -> None:
        plain(layer)
        os.rmdir(f"{layer}/{name}")
        match what:
            case "file":
                os.close(os.open(f"{layer}/{name}", os.O_CREAT))
            case "fifo":
                os.mkfifo(f"{layer}/{name}")
            case _:
                target = {"link to a folder": "etc", "link to the root": "..", "absolute link": "/etc"}
                os.symlink(target.get(what, "nowhere"), f"{layer}/{name}")

    assert enter(make)["errno"] in (errno.ELOOP, errno.ENOTDIR)


def test_an_image_without_them() -> None:
    assert set(enter(nothing)["root"]) >= {"dev", "proc", "sys"}


def test_nothing_of_the_host_is_left(seen: dict[str, Any]) -> None:
    assert set(seen["root"]) == {"dev", "etc", "proc", "sys", *(["made"] if "made" in seen["root"] else [])}
    assert all(path == "/" or path.startswith(("/dev", "/proc", "/sys")) for path in seen["mounts"]), seen[
        "mounts"
    ]
    assert seen["mounts"].count("/") == 1
    assert seen["write"] is None  # the root itself can be written to


def test_devices(seen: dict[str, Any]) -> None:
    expected = {*baseline.DEVICES, "pts", "shm", "mqueue", "ptmx", "fd", "stdin", "stdout", "stderr"}
    assert set(seen["dev"]) == expected
    assert seen["null"] == 1
    assert seen["zero"] == "00000000"
    assert seen["mknod"] == -errno.EPERM


def test_masks_are_in_place(seen: dict[str, Any]) -> None:
    assert set(seen["masked"].values()) <= {"absent", "empty"}, seen["masked"]
    assert "empty" in seen["masked"].values()


def test_what_is_read_only_is_so(seen: dict[str, Any]) -> None:
    assert set(seen["readonly"].values()) <= {"absent", False}, seen["readonly"]
    assert seen["readonly"]["/proc/sys"] is False


def test_budgets_are_written(seen: dict[str, Any]) -> None:
    for name, number in baseline.BUDGETS.items():
        assert seen["budgets"][name] in (number, -errno.ENOENT), name
    assert seen["budgets"]["max_user_namespaces"] == 0


def test_mounts_and_namespaces_are_out_of_reach(seen: dict[str, Any]) -> None:
    assert (seen["mount"], seen["umount"], seen["unshare"]) == (-errno.EPERM,) * 3


def test_privileges_are_gone(seen: dict[str, Any]) -> None:
    inheritable, permitted, effective, bounding, ambient = (int(one, 16) for one in seen["caps"])
    assert inheritable == ambient == 0
    assert permitted == effective == bounding == 0x8004_05FB
    assert seen["no_new_privs"] == 1


def test_it_is_alone(seen: dict[str, Any]) -> None:
    assert seen["pid"] == 1
    assert seen["pids"] == [1]
