"""storageMb held by project quotas: bytes, inodes, what df says, and that nobody inside gets around it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.acceptance.plugin import Say
from tests.conftest import new_key
from tests.e2e.client import Sandbox
from tests.e2e.daemon import Daemon, settle, wait_until
from tests.limits.conftest import PLACES, SMALL, Make, makers, quota_state, started

MIB = 1 << 20
#: Writes until there is no room, and says how much that was and why it ended. Four times the limit is enough
#: to see that there is none.
FILL = """
import os
written, why = 0, 0
with open("/fill", "wb", buffering=0) as file:
    try:
        while written < 256 << 20:
            written += file.write(b"x" * 65536)
        os.fsync(file.fileno())
    except OSError as error:
        why = error.errno
print(written, why)
"""
FILES = """
import os
os.mkdir("/many")
made, why = 0, 0
try:
    while made < 40_000:
        os.close(os.open(f"/many/{made}", os.O_CREAT | os.O_WRONLY))
        made += 1
except OSError as error:
    why = error.errno
print(made, why)
"""
#: What root in the sandbox may try: another project, no inheritance, both by the old call and by the new.
ESCAPES = """
import errno, fcntl, os, struct
GET, SET, GETFLAGS, SETFLAGS = 0x801C581F, 0x401C5820, 0x80086601, 0x40086602
def tried(what, act):
    try:
        act()
        print(what, "done")
    except OSError as error:
        print(what, errno.errorcode[error.errno])
for path in ("/", "/root", "/new"):
    if path == "/new":
        os.mkdir(path)
    fd = os.open(path, os.O_RDONLY)
    flags, extent, extents, project, cow = struct.unpack("5I8x", fcntl.ioctl(fd, GET, bytes(28)))
    print("project", project != 0, "inherits", bool(flags & 0x200))
    def change(flags, project):
        fcntl.ioctl(fd, SET, struct.pack("5I8x", flags, extent, extents, project, cow))
    tried("other project", lambda: change(flags, 7))
    tried("no project", lambda: change(flags, 0))
    tried("no inheritance", lambda: change(flags & ~0x200, project))
    (old,) = struct.unpack("q", fcntl.ioctl(fd, GETFLAGS, bytes(8)))
    tried("no flag", lambda: fcntl.ioctl(fd, SETFLAGS, struct.pack("q", old & ~0x20000000)))
    os.close(fd)
"""


@pytest.fixture(scope="module", params=PLACES)
def quota(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """A daemon with a pool, on each file system of this host that can have one."""
    yield from started(quota_state(request.param))


@pytest.fixture
def make(quota: Daemon) -> Iterator[Make]:
    yield from makers(quota)


def storage(sandbox: Sandbox) -> dict[str, object]:
    told = sandbox.api.get(sandbox.id)["limits"]
    assert "storageMb" in told["enforced"]
    return dict(told["storage"])


def test_bytes_end_at_the_limit_and_df_says_so(make: Make, figure: Say) -> None:
    sandbox = make(storageMb=64)
    assert storage(sandbox) == {"backend": "quota", "storageMb": 64.0, "inodes": 16384, "full": False}
    size = int(sandbox.out("df -B1 --output=size / | tail -1"))
    written, why = (int(number) for number in sandbox.out(["python3", "-c", FILL]).split())
    print(f"64 MiB: df shows {size / MIB:.2f} MiB, {written / MIB:.2f} MiB could be written, errno {why}")
    assert size == 64 * MIB
    assert why in (28, 122)
    assert 0.95 * 64 * MIB <= written <= 1.05 * 64 * MIB
    figure(10, "disk fill", tried=1, percent_of_quota=written / (64 * MIB) * 100)
    assert sandbox.run("echo more > /more")["exitCode"] != 0
    assert sandbox.out("rm /fill; echo more > /more; cat /more") == "more\n"


@pytest.mark.parametrize("asked", [17, 33, 75, 100, 1000])
def test_any_size_is_met_within_a_twentieth(make: Make, asked: int) -> None:
    sandbox = make(storageMb=asked)
    told = storage(sandbox)
    assert told["backend"] == "quota"
    assert 0.95 * asked <= float(str(told["storageMb"])) <= 1.05 * asked
    size = int(sandbox.out("df -B1 --output=size / | tail -1"))
    assert 0.95 * asked * MIB <= size <= 1.05 * asked * MIB


def test_inodes_end_too(make: Make, figure: Say) -> None:
    sandbox = make(storageMb=64)
    made, why = (int(number) for number in sandbox.out(["python3", "-c", FILES], timeoutMs=600_000).split())
    print(f"files made before errno {why}: {made}")
    assert why in (28, 122)
    assert 0.95 * 16_384 <= made <= 16_384
    figure(10, "inode fill", tried=1, percent_of_quota=made / 163.84)


def test_an_upload_ends_there_as_well(make: Make) -> None:
    sandbox = make(storageMb=17)
    answer = sandbox.upload("/big", b"x" * (24 * MIB))
    assert (answer.status, answer.code) == (409, "no_space"), answer
    assert "big" not in sandbox.listing("/")["files"]
    assert sandbox.upload("/small", b"x" * (8 * MIB)).status == 200


def test_root_inside_cannot_get_out_of_its_project(make: Make) -> None:
    sandbox = make(storageMb=64)
    lines = sandbox.out(["python3", "-c", ESCAPES]).splitlines()
    refused = [line for line in lines if not line.startswith("project")]
    assert len(refused) == 12, lines
    assert [line for line in refused if line.endswith("done")] == []
    # /root comes from the image until something in it is changed: only what is the sandbox's own counts.
    assert lines[0] == "project True inherits True"
    assert lines[10] == "project True inherits True"


def test_links_and_renames_stay_inside_it(make: Make) -> None:
    """What is moved, linked or copied up from the image counts like everything else."""
    sandbox = make(storageMb=64)
    before = int(sandbox.out("df -B1 --output=used / | tail -1"))
    sandbox.out("cp /usr/bin/python3 /usr/bin/copy; mv /usr/bin/copy /copy; ln /copy /link; sync")
    after = int(sandbox.out("df -B1 --output=used / | tail -1"))
    assert after - before >= int(sandbox.out("stat -L -c %s /usr/bin/python3"))


def test_two_sandboxes_have_one_each(make: Make) -> None:
    one, other = make(storageMb=64), make(storageMb=64)
    one.run(["python3", "-c", FILL])
    assert int(other.out("df -B1 --output=avail / | tail -1")) > 60 * MIB


def test_all_of_it_is_free_after_the_kill(quota: Daemon) -> None:
    """Of the disk, and of the pool: 96 projects of this size serve any number of sandboxes."""
    with quota.api() as api:
        settle(quota)
        before = os.statvfs(quota.state_dir)
        for _ in range(3):
            sandbox = api.sandbox(storageMb=64)
            assert storage(sandbox)["backend"] == "quota"
            sandbox.run(["python3", "-c", FILL])
            assert api.kill(sandbox.id).status == 200
        settle(quota)
        wait_until(
            lambda: abs(os.statvfs(quota.state_dir).f_bfree - before.f_bfree) * before.f_frsize < 32 * MIB,
            20,
            "the disk as free as before",
        )


def test_an_api_that_starts_anew_takes_no_project_twice(quota: Daemon) -> None:
    """It keeps no list; what is in use is seen by what counts for it."""
    with quota.api() as api:
        first = [api.sandbox(storageMb=64) for _ in range(3)]
        for sandbox in first:
            sandbox.out("head -c 8M /dev/zero > /mine")
        os.kill(quota.api_pid, 1)
        quota.wait_ready()
        again = quota.api()
        second = [again.sandbox(storageMb=64) for _ in range(3)]
        used = [int(one.out("df -B1 --output=used / | tail -1")) for one in second]
        assert all(one < MIB for one in used), used
        for sandbox in (*first, *second):
            assert again.kill(sandbox.id).status == 200
        again.close()


def test_quotas_that_were_taken_away_are_found_out() -> None:
    """With ``storage=quota`` the daemon says what is missing and does not start."""
    one = Daemon(key=new_key(), settings={**SMALL, "NSBOX_STORAGE": "quota"})
    try:
        with pytest.raises(AssertionError, match="no pool of project quotas"):
            one.start()
    finally:
        one.close()


def test_metrics_tell_what_the_quota_counts(make: Make) -> None:
    sandbox = make(storageMb=64)
    before = sandbox.request("GET", "/metrics?history=false").json["now"]["disk"]
    sandbox.out("head -c 20000000 /dev/zero > /root/twenty && sync /root/twenty")
    after = sandbox.request("GET", "/metrics?history=false").json["now"]["disk"]
    assert 20_000_000 <= after["bytes"] - before["bytes"] <= 21_000_000
    assert after["inodes"] > before["inodes"]
