from __future__ import annotations

import json
import subprocess
import sys

import msgspec
import pytest
from click.testing import CliRunner

from nsbox.cli import doctor
from nsbox.cli.doctor import Need, Status, assess, render, verdict
from nsbox.host import facts
from nsbox.host.facts import (
    Attempt,
    Cgroup,
    HostFacts,
    IdRange,
    Kernel,
    Mapper,
    Quotas,
    StateDisk,
    Systemd,
    UserNamespaces,
)
from nsbox.settings import StorageMode


def switches(**changes: object) -> UserNamespaces:
    none = UserNamespaces(limit=9, debian_switch=None, apparmor_restricts=None, profile=None)
    return msgspec.structs.replace(none, **changes)


DELEGATED = Cgroup(mount="/c", folder="/c/u", delegated=True, controllers=("cpu", "io", "memory", "pids"))
NO_MEMORY = msgspec.structs.replace(DELEGATED, controllers=("cpu", "io", "pids"))
NO_IO = msgspec.structs.replace(DELEGATED, controllers=("cpu", "memory", "pids"))
CONTROLLERS = ["cpu controller", "memory controller", "pids controller"]

GOOD = HostFacts(
    user="ann",
    uid=1000,
    kernel=Kernel("6.1.0", (6, 1)),
    user_namespaces=switches(debian_switch=True),
    no_new_privs=False,
    sub_uids=(IdRange(100000, 65536),),
    sub_gids=(IdRange(100000, 65536),),
    free_sub_ids=IdRange(165536, 65536),
    newuidmap=Mapper.READY,
    newgidmap=Mapper.READY,
    cgroup=DELEGATED,
    systemd=Systemd(running=True, user_manager=True),
    swap=True,
    overlayfs=True,
    seccomp_filter=True,
    prctl=True,
    state=StateDisk(folder="/s", fstype="ext4", free_bytes=10 * 1024**3, writable=True),
    quotas=Quotas(mounted=True, pool=True),
    tun=True,
    pasta="/usr/bin/pasta",
    landlock=True,
    namespaces_tried=Attempt(True),
    proc_tried=Attempt(True),
    overlay_tried=Attempt(True),
)


def but(**changes: object) -> HostFacts:
    return msgspec.structs.replace(GOOD, **changes)


def missing(host: HostFacts) -> dict[str, str | None]:
    return {finding.feature: finding.remedy for finding in assess(host) if not finding.ok}


def test_a_good_host():
    assert missing(GOOD) == {}
    assert verdict(assess(GOOD)) is Status.READY
    assert all("NO" not in line for line in render(assess(GOOD)))


@pytest.mark.parametrize(
    ("host", "feature", "remedy"),
    [
        (but(kernel=Kernel("5.10.0", (5, 10))), "kernel", "upgrade"),
        (but(newuidmap=Mapper.MISSING), "newuidmap", "sudo apt install uidmap"),
        (but(newgidmap=Mapper.UNPRIVILEGED), "newgidmap", "--reinstall uidmap"),
        (but(sub_uids=()), "subordinate uids", "sudo usermod --add-subuids 165536-231071 ann"),
        (but(sub_gids=(IdRange(1, 65535), IdRange(70000, 9))), "subordinate gids", "--add-subgids"),
        (but(no_new_privs=True), "setuid programs", "NoNewPrivileges"),
        (but(prctl=False), "python-prctl", "libcap-dev"),
        (but(seccomp_filter=False), "seccomp filters", "CONFIG_SECCOMP_FILTER"),
        (but(overlayfs=False), "overlayfs", "modprobe overlay"),
        (but(proc_tried=Attempt(False, "no")), "a fresh /proc, tried", "systempaths=unconfined"),
        (but(namespaces_tried=Attempt(False, "no")), "namespaces, tried", "container"),
        (but(overlay_tried=Attempt(False, "no")), "overlay there, tried", "NSBOX_STATE_DIR"),
        (
            but(user_namespaces=switches(limit=0)),
            "user namespaces",
            "user.max_user_namespaces",
        ),
        (
            but(user_namespaces=switches(debian_switch=False)),
            "user namespaces",
            "kernel.unprivileged_userns_clone=1",
        ),
    ],
)  # fmt: skip
def test_what_is_required(host, feature, remedy):
    assert list(missing(host)) == [feature]
    assert remedy in (missing(host)[feature] or "")
    assert verdict(assess(host)) is Status.UNUSABLE


def test_ubuntus_restriction_counts_only_where_it_bites():
    switches = UserNamespaces(
        limit=9, debian_switch=None, apparmor_restricts=True, profile="nsbox (unconfined)"
    )
    assert missing(but(user_namespaces=switches)) == {}
    found = missing(but(user_namespaces=switches, namespaces_tried=Attempt(False, "Operation not permitted")))
    assert "aa-exec -p nsbox" in (found["user namespaces"] or "")


def test_a_state_folder_on_a_network_disk_is_refused_though_it_may_be_tried():
    disk = StateDisk(folder="/s", fstype="nfs4", free_bytes=10 * 1024**3, writable=True)
    assert list(missing(but(state=disk))) == ["overlay there, tried"]


@pytest.mark.parametrize(
    ("group", "features"),
    [
        (Cgroup(), ["cgroup v2", "cgroup delegation", *CONTROLLERS]),
        (NO_MEMORY, ["memory controller"]),
    ],
)  # fmt: skip
def test_limits_alone_have_a_status_of_their_own(group, features):
    host = but(cgroup=group)
    limits = [finding.feature for finding in assess(host) if not finding.ok and finding.need is Need.LIMITS]
    assert limits == features
    assert verdict(assess(host)) is Status.WITHOUT_LIMITS
    assert verdict(assess(host)).exit_code == 3


def test_the_remedy_for_delegation_fits_the_host():
    bare = Cgroup(mount="/c", folder="/c/u")
    assert "user@.service.d" in (missing(but(cgroup=bare))["cgroup delegation"] or "")
    no_manager = but(cgroup=bare, systemd=Systemd(running=True, user_manager=False))
    assert "enable-linger ann" in (missing(no_manager)["cgroup delegation"] or "")
    no_systemd = but(cgroup=bare, systemd=Systemd(running=False, user_manager=False))
    assert "chown ann" in (missing(no_systemd)["cgroup delegation"] or "")
    hybrid = but(cgroup=Cgroup(mount="/sys/fs/cgroup/unified", folder="/x"))
    assert "unified_cgroup_hierarchy" in (missing(hybrid)["cgroup delegation"] or "")


def test_optional_things_do_not_spoil_the_verdict():
    host = but(
        swap=False,
        tun=False,
        pasta=None,
        landlock=False,
        systemd=Systemd(running=False, user_manager=False),
        cgroup=NO_IO,
        state=StateDisk(folder="/s", fstype="xfs", free_bytes=1 << 30, writable=True),
    )
    assert verdict(assess(host)) is Status.READY
    assert len(missing(host)) == 7


@pytest.mark.parametrize(("host", "code"), [(GOOD, 0), (but(prctl=False), 1), (but(cgroup=Cgroup()), 3)])
def test_the_command(monkeypatch, host, code):
    monkeypatch.setattr(facts, "gather", lambda *unused: host)
    plain = CliRunner().invoke(doctor.doctor)
    assert plain.exit_code == code
    assert "\x1b" not in plain.output
    shown = CliRunner().invoke(doctor.doctor, ["--json"])
    assert shown.exit_code == code
    document = json.loads(shown.output)
    assert document["status"] == verdict(assess(host)).value
    assert {"feature", "need", "ok", "found", "why", "remedy"} == set(document["findings"][0])


QUOTAS = "project quotas"


@pytest.mark.parametrize(
    ("fstype", "quotas", "found", "remedy"),
    [
        ("ext4", Quotas(mounted=True, pool=False), "no pool", "--quota-only --user ann --state-dir /s"),
        ("xfs", Quotas(mounted=True, pool=True, fault="gone"), "not hold: gone", "sudo nsbox setup --quota"),
        ("ext4", Quotas(mounted=False, pool=False), "ext4 without them", "tune2fs -O project,quota"),
        ("xfs", Quotas(mounted=False, pool=True, fault="gone"), "not hold: gone", "the option prjquota"),
        ("btrfs", Quotas(mounted=False, pool=False), "btrfs without them", "on ext4 or XFS"),
    ],
)
def test_quotas_that_do_not_hold_are_named_with_what_mends_them(fstype, quotas, found, remedy):
    host = but(quotas=quotas, state=msgspec.structs.replace(GOOD.state, fstype=fstype))
    (said,) = [finding for finding in assess(host) if not finding.ok]
    assert said.feature == QUOTAS
    assert found in said.found
    assert remedy in (said.remedy or "")
    assert verdict(assess(host)) is Status.READY
    assert verdict(assess(host, StorageMode.QUOTA)) is Status.UNUSABLE, "the daemon would not start"


def test_a_full_disk_is_no_place_to_start():
    host = but(state=StateDisk(folder="/s", fstype="xfs", free_bytes=1 << 20, writable=True))
    assert verdict(assess(host)) is Status.UNUSABLE


def test_it_can_be_asked_where_prctl_cannot_be_imported() -> None:
    """Which it then says; a traceback would say it to nobody."""
    program = "import sys; sys.modules['prctl'] = None; from nsbox.cli import doctor, filters"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
