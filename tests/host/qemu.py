"""Starting QEMU: the command line, and whether the processor can help."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import prctl

from tests.host import places
from tests.host.image import Image

#: Emulated, ``rep stosb`` goes byte by byte: without these flags kernel and libc clear and copy memory
#: another way. Five-level page tables only cost. At a cmpxchg16b of QEMU 7.2's Linux 6.12 died as it booted,
#: in its allocator, with flags that looked like an address; without it the kernel takes another way there.
_EMULATED = "max,la57=off,erms=off,fsrm=off,cx16=off"
_KERNEL_LINE = (
    "root=/dev/vda console=ttyS0 panic=-1 mitigations=off nowatchdog systemd.show_status=false "
    "fsck.mode=skip net.ifnames=0"
)


def kvm_works(modules: str = "/sys/module", device: str = "/dev/kvm") -> bool:
    """Hardware's virtualisation, and allowed to us. The ``kvm_pvm`` kind of /dev/kvm, in virtual machines
    mostly, cannot run an ordinary guest kernel: it stops in emulation failures."""
    if os.path.exists(f"{modules}/kvm_pvm"):
        return False
    hardware = any(os.path.exists(f"{modules}/{name}") for name in ("kvm_intel", "kvm_amd"))
    return hardware and os.access(device, os.R_OK | os.W_OK)


def start(
    image: Image, folder: Path, *, port: int, memory_mb: int, dies_with_us: bool
) -> subprocess.Popen[bytes]:
    """Start a machine from the clean image; what it writes is thrown away. ``port`` of this host's loopback
    leads to its ssh server, and nothing leads from it to anywhere (``restrict``)."""
    accelerated = kvm_works()
    processor = ["-accel", "kvm", "-cpu", "host"]
    if not accelerated:
        processor = ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", _EMULATED]
    drive = f"file={image.disk},format=raw,snapshot=on,cache=unsafe,if=none,id=disk"
    net = f"user,id=net,ipv6=off,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22"
    command = [
        "qemu-system-x86_64", "-name", "nsbox-test-host", *processor, "-machine", "q35",
        "-smp", "2", "-m", str(memory_mb), "-nodefaults", "-display", "none", "-vga", "none", "-no-reboot",
        "-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", _KERNEL_LINE,
        "-drive", drive, "-device", "virtio-blk-pci,drive=disk",
        "-netdev", net, "-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-rng-pci",
        "-serial", f"file:{folder}/console",
    ]  # fmt: skip
    with open(folder / "qemu.log", "w") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for us, who then end it in order
            # The kernel ends it with us, however we end. The caller has no other thread.
            preexec_fn=_die_with_parent if dies_with_us else None,
            # Written blocks go to a nameless file here: on a disk, since /tmp is memory on many hosts.
            env=places.environment(TMPDIR=str(places.cache())),
        )


def _die_with_parent() -> None:
    prctl.set_pdeathsig(signal.SIGKILL)
