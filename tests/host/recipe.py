"""What the machine's disk holds, as data: its hash is the key of the cached image."""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from typing import NamedTuple

RELEASE = "bookworm"
#: The ordinary user of the machine.
USER, USER_ID = "dev", 1000
#: Printed on the serial console once somebody can log in.
READY = "NSBOX-MACHINE-READY"
DISK_SIZE = "12G"


class Kernel(StrEnum):
    """Which Linux the machine boots."""

    STABLE = "stable"  # Debian 12's own, 6.1: what users have
    BACKPORTS = "backports"  # Debian's newer one for it, 6.12: for what the other cannot do

    @property
    def package(self) -> str:
        """For apt: with the release that it is to be taken from."""
        return "linux-image-cloud-amd64" + (f"/{self.release}" if self is Kernel.BACKPORTS else "")

    @property
    def release(self) -> str:
        """The release of the archive that has it."""
        return f"{RELEASE}-backports" if self is Kernel.BACKPORTS else RELEASE


#: The third line is what README.md tells a self-hoster to install; the machine has no way out, so it is
#: there already. strace, curl and the quota tools are for tests.
PACKAGES = (
    "busybox-static", "kmod", "udev",
    "systemd", "systemd-sysv", "dbus", "dbus-user-session", "libpam-systemd",
    "pipx", "gcc", "libc6-dev", "libcap-dev", "python3-dev", "uidmap", "passt",
    "openssh-server", "sudo", "python3", "python3-venv", "iproute2", "nftables", "procps", "psmisc",
    "util-linux", "less", "ca-certificates", "strace", "curl", "e2fsprogs", "xfsprogs", "quota",
)  # fmt: skip

#: What the disk's driver and project quotas need, before there is a root file system to load modules from.
BOOT_MODULES = ("virtio_pci", "virtio_blk", "quota_v2")


class TextFile(NamedTuple):
    """A file laid over the unpacked packages."""

    path: str
    text: str
    mode: int = 0o644


FILES = (
    TextFile("etc/hostname", "nsbox-host\n"),
    TextFile("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 nsbox-host\n::1 localhost\n"),
    TextFile("etc/fstab", "/dev/vda / ext4 rw,relatime,prjquota 0 1\n"),
    TextFile("etc/resolv.conf", "nameserver 10.0.2.3\n"),
    TextFile("etc/apt/sources.list", ""),
    TextFile("etc/machine-id", "0d9c5a1e6f7b4c2d8e3f4a5b6c7d8e9f\n", 0o444),
    TextFile("etc/sudoers.d/dev", f"{USER} ALL=(ALL) NOPASSWD: ALL\n", 0o440),
    # No DHCP: QEMU's user network has fixed addresses, and a lease would cost seconds.
    TextFile(
        "etc/systemd/network/10-machine.network",
        "[Match]\nName=en* eth*\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\nIPv6AcceptRA=no\n",
    ),
    # Debian's own default is cpu, memory and pids; this is what nsbox doctor tells a user to write.
    TextFile(
        "etc/systemd/system/user@.service.d/nsbox.conf",
        "[Service]\nDelegate=cpu cpuset io memory pids\n",
    ),
    TextFile("etc/systemd/journald.conf.d/machine.conf", "[Journal]\nStorage=volatile\nRateLimitBurst=0\n"),
    TextFile(
        "etc/ssh/sshd_config.d/machine.conf",
        "PermitRootLogin prohibit-password\nPasswordAuthentication no\nUseDNS no\nMaxSessions 64\n",
    ),
    # pip and pipx as they are without a registry; the README's commands then work unchanged.
    TextFile("etc/pip.conf", "[global]\nno-index = true\nfind-links = /opt/wheels\n"),
    TextFile(
        "etc/systemd/system/machine-ready.service",
        f"[Unit]\nAfter=ssh.service user@{USER_ID}.service systemd-networkd.service\n"
        f"Wants=ssh.service user@{USER_ID}.service\n"
        "[Service]\nType=oneshot\nRemainAfterExit=yes\n"
        f"ExecStart=/bin/echo {READY}\nStandardOutput=tty\nTTYPath=/dev/ttyS0\n"
        "[Install]\nWantedBy=multi-user.target\n",
    ),
)

#: Run by sh in the unpacked system, as its root.
CUSTOMIZE = f"""
set -e
useradd --create-home --uid {USER_ID} --shell /bin/bash {USER}
grep -q '^{USER}:' /etc/subuid || usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {USER}
mkdir -p /var/lib/systemd/linger
touch /var/lib/systemd/linger/{USER}
rm -f /etc/ssh/ssh_host_*
ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key
# pipx has been used here before, by both: its own environment takes a minute to make when it is emulated.
python3 -m venv /opt/pipx/shared
su {USER} -c 'python3 -m venv ~/.local/pipx/shared'
systemctl -q enable systemd-networkd.service ssh.service
ln -s ../machine-ready.service /etc/systemd/system/multi-user.target.wants/machine-ready.service
systemctl -q disable systemd-networkd-wait-online.service || true
systemctl -q mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer \\
    e2scrub_all.timer e2scrub_reap.service getty@tty1.service
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /etc/apt/sources.list.d/*
"""

#: The only program of the initial RAM disk: load the drivers, wait for the disk, become its init.
BOOT_SCRIPT = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs devtmpfs /dev
while read -r module; do $b insmod "/modules/$module"; done </modules/order
tries=0
until $b mount -t ext4 -o rw,prjquota /dev/vda /root 2>/dev/null; do
    tries=$((tries + 1))
    [ "$tries" -lt 200 ] || { echo 'no root disk'; exec $b poweroff -f; }
    $b usleep 50000
done
for folder in proc sys dev; do $b mount --move "/$folder" "/root/$folder"; done
exec $b switch_root /root /sbin/init
"""


def key(kernel: Kernel) -> str:
    """Changes with everything that decides what is on the disk, but for the packages' versions."""
    whole = [kernel.package, RELEASE, DISK_SIZE, PACKAGES, BOOT_MODULES, FILES, CUSTOMIZE, BOOT_SCRIPT]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:16]
