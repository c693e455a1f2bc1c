"""storageMb held by a tmpfs: no quota needed, paid for in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbox.host import facts
from nsbox.host.storage import TMPFS_KERNEL
from tests.conftest import new_key
from tests.e2e.daemon import Daemon, settle
from tests.limits.conftest import SMALL, Make, makers, needs, started
from tests.limits.test_quota import FILES, FILL
from tests.registries import tools
from tests.registries.images import docker_tar, image, layer

MIB = 1 << 20
_OLD = facts.kernel().version < TMPFS_KERNEL


@pytest.fixture(scope="module")
def daemon_on_tmpfs() -> Iterator[Daemon]:
    if _OLD:
        pytest.skip("tmpfs has no user.* attributes before Linux 6.6")
    yield from started(settings={"NSBOX_STORAGE": "tmpfs"})


@pytest.fixture
def make(daemon_on_tmpfs: Daemon) -> Iterator[Make]:
    yield from makers(daemon_on_tmpfs)


def test_bytes_end_at_the_limit_and_df_says_so(make: Make) -> None:
    sandbox = make(storageMb=32, memoryMb=256)
    told = sandbox.api.get(sandbox.id)["limits"]
    assert told["storage"] == {"backend": "tmpfs", "storageMb": 32.0, "inodes": 16384, "full": False}
    assert "storageMb" in told["enforced"]
    assert int(sandbox.out("df -B1 --output=size / | tail -1")) == 32 * MIB
    written, why = (int(number) for number in sandbox.out(["python3", "-c", FILL]).split())
    print(f"32 MiB: {written / MIB:.2f} MiB could be written, errno {why}")
    assert why == 28
    assert 0.95 * 32 * MIB <= written <= 32 * MIB
    answer = sandbox.upload("/more", b"x" * MIB)
    assert (answer.status, answer.code) == (409, "no_space")


def test_inodes_end_too(make: Make) -> None:
    sandbox = make(storageMb=32, memoryMb=256)
    made, why = (int(number) for number in sandbox.out(["python3", "-c", FILES]).split())
    assert why == 28
    assert 0.95 * 16_384 <= made <= 16_384


def test_it_never_takes_more_than_half_of_the_memory(make: Make) -> None:
    sandbox = make(storageMb=1024, memoryMb=128)
    assert sandbox.api.get(sandbox.id)["limits"]["storage"]["storageMb"] == 64.0
    assert int(sandbox.out("df -B1 --output=size / | tail -1")) == 64 * MIB


def test_folders_of_the_image_can_be_replaced(make: Make) -> None:
    """What overlayfs needs user.* attributes for."""
    sandbox = make(memoryMb=256)
    assert sandbox.out("rm -rf /etc && mkdir /etc && ls -A /etc | wc -l") == "0\n"


def test_its_pages_are_the_sandboxs(make: Make) -> None:
    sandbox = make(storageMb=32, memoryMb=256)
    needs(sandbox, "memoryMb")
    before = int(sandbox.out("cat /sys/fs/cgroup/memory.current"))
    sandbox.out("head -c 24M /dev/zero > /file")
    assert int(sandbox.out("cat /sys/fs/cgroup/memory.current")) - before > 20 * MIB


def test_nothing_stays_mounted(daemon_on_tmpfs: Daemon) -> None:
    with daemon_on_tmpfs.api() as api:
        assert api.kill(api.create()).status == 200
        before = settle(daemon_on_tmpfs)
        for _ in range(3):
            assert api.kill(api.create()).status == 200
        assert settle(daemon_on_tmpfs) == before


def test_templates_are_built_all_the_same(daemon_on_tmpfs: Daemon) -> None:
    """What set-up commands write becomes a layer on the disk: that sandbox is not on a tmpfs."""
    tools.need("/bin/busybox")
    program = Path("/bin/busybox").read_bytes()
    made = image([layer({"bin/busybox": program, "bin/sh": "busybox"}, "none")])
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder, daemon_on_tmpfs.api() as api:
        archive, recipe = Path(folder, "saved.tar"), Path(folder, "tool.toml")
        archive.write_bytes(docker_tar(made, ["built-on-tmpfs:1"]))
        recipe.write_text('name = "tool"\nimage = "built-on-tmpfs:1"\nsetup = ["echo made >/made"]\n')
        for path in (archive, recipe, Path(folder)):
            path.chmod(0o755)
        for arguments in (("import", str(archive)), ("build", str(recipe))):
            done = daemon_on_tmpfs.nsbox_on_state("image", *arguments)
            assert done.returncode == 0, done.stderr
        sandbox = api.sandbox(templateId="tool", memoryMb=128)
        assert sandbox.out("/bin/busybox cat /made") == "made\n"
        assert api.get(sandbox.id)["limits"]["storage"]["backend"] == "tmpfs"
        assert api.kill(sandbox.id).status == 200


def test_an_old_kernel_is_told_of_at_the_start() -> None:
    if not _OLD:
        pytest.skip("this kernel's tmpfs has user.* attributes")
    one = Daemon(key=new_key(), settings={**SMALL, "NSBOX_STORAGE": "tmpfs"})
    try:
        with pytest.raises(AssertionError, match="storage=tmpfs needs Linux"):
            one.start()
    finally:
        one.close()
