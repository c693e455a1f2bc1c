"""`nsbox doctor` against the host itself: a thing is broken, doctor names it, its own remedy mends it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from tests.service.machine import USER, Service, as_user, sh, tried

Mend = Callable[[str], None]


class Report(NamedTuple):
    """What doctor said."""

    code: int
    findings: dict[str, dict[str, Any]]

    def complaint(self, feature: str) -> dict[str, Any]:
        found = self.findings[feature]
        assert not found["ok"], found
        return found


def report(code: int, text: str) -> Report:
    return Report(code, {one["feature"]: one for one in json.loads(text)["findings"]})


def doctor(arguments: str = "", *, before: str = "", user: str = USER) -> Report:
    done = as_user(f"{before} nsbox doctor --json {arguments}", user=user)
    assert done.stdout, done.stderr
    return report(done.returncode, done.stdout)


def follow(remedy: str) -> None:
    """Type what was printed, as the user that it was printed for."""
    assert remedy.startswith("sudo "), remedy
    done = as_user(remedy)
    assert done.returncode == 0, (remedy, done.stderr)


def test_all_is_well() -> None:
    said = doctor()
    assert said.code == 0, said
    missing = [name for name, one in said.findings.items() if not one["ok"] and one["need"] != "optional"]
    assert not missing


def test_as_root_it_speaks_of_the_service(service: Service) -> None:
    done = tried("nsbox doctor --json")
    said = report(done.returncode, done.stdout)
    assert said.findings["cgroup delegation"]["found"] == "/sys/fs/cgroup/system.slice/nsbox.service"
    assert said.code == 0, done.stdout


def test_the_service_is_stopped(service: Service) -> None:
    sh("systemctl stop nsbox")
    done = tried("nsbox doctor --json")
    said = report(done.returncode, done.stdout)
    assert said.code == 3
    assert "sudo systemctl start nsbox" in said.complaint("cgroup delegation")["remedy"]
    follow("sudo systemctl start nsbox")
    assert tried("nsbox doctor").returncode == 0


@pytest.mark.parametrize("kind", ["uid", "gid"])
def test_no_subordinate_ids(kind: str, mend: Mend) -> None:
    mend(f"mv /etc/sub{kind}.kept /etc/sub{kind}")
    sh(f"cp /etc/sub{kind} /etc/sub{kind}.kept && sed -i '/^{USER}:/d' /etc/sub{kind}")
    said = doctor()
    assert said.code == 1
    complaint = said.complaint(f"subordinate {kind}s")
    assert f"/etc/sub{kind}" in complaint["found"]
    follow(complaint["remedy"].partition(" (or: ")[0])
    assert doctor().code == 0


def test_too_few_subordinate_ids(mend: Mend) -> None:
    mend("mv /etc/subuid.kept /etc/subuid")
    sh(f"cp /etc/subuid /etc/subuid.kept && sed -i 's/^{USER}:.*/{USER}:100000:1000/' /etc/subuid")
    said = doctor()
    assert said.code == 1
    other = re.search(r"\(or: (.*)\)", said.complaint("subordinate uids")["remedy"])
    assert other is not None
    follow(other[1].replace("sudo nsbox", f"sudo /home/{USER}/.local/bin/nsbox"))
    assert doctor().code == 0


@pytest.mark.parametrize("program", ["newuidmap", "newgidmap"])
def test_a_missing_mapper(program: str, mend: Mend) -> None:
    mend(f"mv /root/{program} /usr/bin/{program}")
    sh(f"mv /usr/bin/{program} /root/{program}")
    said = doctor()
    assert said.code == 1
    assert said.complaint(program)["found"] == "missing"
    # The machine has no way to the archive, so the remedy is read and not typed.
    assert said.complaint(program)["remedy"] == "sudo apt install uidmap"
    assert not said.findings["namespaces, tried"]["ok"]


def test_a_mapper_that_is_not_setuid(mend: Mend) -> None:
    mend("chmod u+s /usr/bin/newuidmap")
    sh("chmod u-s /usr/bin/newuidmap")
    said = doctor()
    assert said.code == 1
    assert said.complaint("newuidmap")["found"] == "unprivileged"


@pytest.mark.parametrize("switch", ["user.max_user_namespaces", "kernel.unprivileged_userns_clone"])
def test_forbidden_user_namespaces(switch: str, mend: Mend) -> None:
    before = sh(f"sysctl -n {switch}").strip()
    mend(f"sysctl -w {switch}={before}")
    sh(f"sysctl -w {switch}=0")
    said = doctor()
    assert said.code == 1
    complaint = said.complaint("user namespaces")
    assert switch in complaint["found"]
    assert not said.findings["namespaces, tried"]["ok"]
    follow(complaint["remedy"])
    assert doctor().code == 0


def test_no_new_privileges() -> None:
    said = doctor(before="setpriv --no-new-privs")
    assert said.code == 1
    assert "NoNewPrivileges" in said.complaint("setuid programs")["found"]


@pytest.mark.parametrize(("name", "status"), [("cpu", 3), ("io", 0)])
def test_a_controller_that_is_not_delegated(mend: Mend, name: str, status: int) -> None:
    setting = "/etc/systemd/system/user@.service.d/nsbox.conf"
    restart = "systemctl daemon-reload && systemctl restart user@1000.service"
    mend(f"mv /root/nsbox.conf {setting}; {restart}")
    # The empty one takes the distribution's own list back.
    others = " ".join(one for one in ("cpu", "io", "memory", "pids") if one != name)
    text = f"[Service]\\nDelegate=\\nDelegate={others}\\n"
    sh(f"mv {setting} /root/nsbox.conf; printf '{text}' >{setting}; {restart}")
    said = doctor()
    assert said.code == status
    remedy = said.complaint(f"{name} controller")["remedy"]
    assert said.findings["memory controller"]["ok"]
    follow(remedy.removesuffix(", then log in again"))
    sh("systemctl restart user@1000.service")  # which is what logging out and in comes to
    mended = doctor()
    assert (mended.code, mended.findings[f"{name} controller"]["ok"]) == (0, True)


def test_no_manager_of_ones_own(mend: Mend) -> None:
    """An account without a login: nobody delegates anything to it."""
    mend("userdel --remove lonely")
    sh("useradd --create-home lonely && chmod 0755 /home/lonely")
    nsbox = f"/home/{USER}/.local/bin/nsbox"
    mend(f"chmod 0700 /home/{USER}")
    sh(f"chmod 0755 /home/{USER}")
    done = as_user(f"{nsbox} doctor --json", user="lonely")
    said = report(done.returncode, done.stdout)
    assert said.code == 3, done.stdout
    assert "sudo loginctl enable-linger lonely" in said.complaint("cgroup delegation")["remedy"]
    mend("loginctl disable-linger lonely; loginctl terminate-user lonely; sleep 2")
    sh("loginctl enable-linger lonely && systemctl start user@$(id -u lonely).service")
    done = as_user(f"{nsbox} doctor --json", user="lonely")
    assert report(done.returncode, done.stdout).findings["cgroup delegation"]["ok"]


def test_an_installation_that_the_service_cannot_read(mend: Mend) -> None:
    mend("chmod 0755 /opt/pipx")
    sh("chmod 0700 /opt/pipx")
    done = tried("nsbox doctor")
    assert done.returncode == 1
    assert "the user nsbox cannot read /opt/pipx" in done.stderr
    assert "remedy: " in done.stderr
    assert "Traceback" not in done.stderr


def small_disk(mend: Mend, *, full: bool) -> str:
    """A file system of its own for a state folder of the user's."""
    folder = "/mnt/small"
    mend(f"umount {folder}; rm -rf /root/small.img {folder}")
    sh(
        f"truncate -s 64M /root/small.img && mkfs.ext4 -q -m 0 /root/small.img && mkdir -p {folder} && "
        f"mount -o loop /root/small.img {folder} && chown {USER}: {folder}"
    )
    if full:
        tried(f"dd if=/dev/zero of={folder}/filler bs=1M; sync")
    return folder


def test_a_full_disk(mend: Mend) -> None:
    folder = small_disk(mend, full=True)
    said = doctor(f"--state-dir {folder}/state")
    assert said.code == 1
    assert said.complaint("free disk")["need"] == "required"
    assert "NSBOX_STATE_DIR" in said.complaint("free disk")["remedy"]


def test_a_state_folder_of_somebody_else() -> None:
    said = doctor("--state-dir /root/state")
    assert said.code == 1
    assert USER in said.complaint("state folder")["found"]


def covered(line: str, arguments: str = "") -> Report:
    """What doctor says where root has mounted something over a part of the host, for doctor alone to see."""
    run = f"exec runuser -u {USER} -- /home/{USER}/.local/bin/nsbox doctor --json {arguments}"
    done = tried(f"unshare --mount sh -c '{line}; {run}'")
    assert done.stdout, done.stderr
    return report(done.returncode, done.stdout)


def test_a_covered_proc() -> None:
    """As in a container: with something mounted over a part of /proc no fresh one may be mounted."""
    said = covered("mount -t tmpfs none /proc/scsi 2>/dev/null || mount -t tmpfs none /proc/bus")
    assert said.code == 1
    assert said.complaint("a fresh /proc, tried")["found"]


@pytest.mark.parametrize(
    ("feature", "line", "status"),
    [
        ("kernel", "echo 5.10.0-9 >/root/old; mount --bind /root/old /proc/sys/kernel/osrelease", 1),
        ("seccomp filters", "mount --bind /dev/null /proc/sys/kernel/seccomp/actions_avail", 1),
        (
            "overlayfs",
            "mount --bind /dev/null /proc/filesystems; cd /lib/modules/$(uname -r); "
            "mount --bind /dev/null modules.dep; cd /",
            1,
        ),
        ("cgroup v2", "umount --lazy /sys/fs/cgroup", 3),
        ("systemd", "mount -t tmpfs none /run/systemd", 0),
        ("landlock", "mount --bind /dev/null /sys/kernel/security/lsm", 0),
    ],
)
def test_a_host_that_has_not(feature: str, line: str, status: int) -> None:
    """What cannot be taken away from a running machine is hidden from doctor."""
    said = covered(line)
    assert said.complaint(feature)["why"]
    # Covering something in /proc has a consequence of its own.
    assert said.code == (1 if "/proc/" in line else status), said


def test_a_file_system_that_holds_no_upper_layer(mend: Mend) -> None:
    mend("umount /mnt/over; rm -rf /mnt/over")
    sh("mkdir -p /mnt/over/l /mnt/over/u /mnt/over/w /mnt/over/m && chmod 0777 /mnt/over/u")
    sh("mount -t overlay none -o lowerdir=/mnt/over/l,upperdir=/mnt/over/u,workdir=/mnt/over/w /mnt/over")
    said = doctor("--state-dir /mnt/over/state")
    assert said.code == 1
    assert said.complaint("overlay there, tried")["found"].startswith("overlay")


def test_prctl_that_cannot_be_imported(mend: Mend) -> None:
    site = f"/home/{USER}/.local/pipx/venvs/nsbox/lib/python3.11/site-packages"
    mend(f"mv /root/prctl.py {site}/prctl.py")
    sh(f"mv {site}/prctl.py /root/prctl.py")
    assert "libcap-dev" in doctor().complaint("python-prctl")["remedy"]


def test_quotas(service: Service, mend: Mend) -> None:
    """The service's pool: prepared by setup at the installation, then turned off, then taken away."""

    def said() -> dict[str, Any]:
        done = tried("nsbox doctor --json")
        return report(done.returncode, done.stdout).findings["project quotas"]

    assert said()["ok"], said()
    mend("quotaon -P / || true; nsbox setup")
    sh("quotaoff -P /")
    complaint = said()
    assert (complaint["ok"], complaint["need"]) == (False, "optional")
    assert "has no limit" in complaint["found"]
    follow(complaint["remedy"].replace("sudo nsbox", "sudo /usr/local/bin/nsbox"))
    assert said()["ok"], said()
    assert "change" not in sh("nsbox setup --quota-only")

    sh("nsbox setup --quota-only --undo")
    complaint = said()
    assert "no pool" in complaint["found"]
    insisting = tried("NSBOX_STORAGE=quota nsbox doctor --json")
    assert insisting.returncode == 1
    assert report(1, insisting.stdout).complaint("project quotas")["need"] == "required"
    follow(complaint["remedy"].replace("sudo nsbox", "sudo /usr/local/bin/nsbox"))
    assert said()["ok"], said()


def test_no_tun(mend: Mend) -> None:
    mend("chmod 0666 /dev/net/tun")
    # Loaded for the first time, udev gives it its usual mode, and that comes a moment later.
    sh("modprobe tun; udevadm settle; chmod 0600 /dev/net/tun")
    complaint = doctor().complaint("/dev/net/tun")
    assert complaint["need"] == "optional"
    follow(complaint["remedy"])
    assert doctor().findings["/dev/net/tun"]["ok"]


def test_no_pasta(mend: Mend) -> None:
    mend("mv /root/pasta /usr/bin/pasta")
    sh("mv /usr/bin/pasta /root/pasta")
    assert doctor().complaint("pasta")["found"] == "missing"


def test_swap(mend: Mend) -> None:
    complaint = doctor().complaint("swap")
    mend("swapoff -a; rm -f /swapfile")
    follow(complaint["remedy"].replace("4G", "64M"))
    assert doctor().findings["swap"]["ok"]
