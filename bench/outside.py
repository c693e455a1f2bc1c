"""A host of the internet for as long as a measurement lasts, and a host of ours that has a way to it: two
network namespaces, which root makes. The machine's own network stays as it is."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator

from nsbox.kernel import libc
from nsbox.model.errors import HostProblem

#: Nobody's, and not one that is "inside".
ADDRESS = "11.22.33.44"
_OURS, _ROUTER = "192.168.77.2", "192.168.77.1"


@contextlib.contextmanager
def there() -> Iterator[str]:
    """This thread is on the host of ours, with all that it starts; the name of the other's namespace."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        raise HostProblem("there is no host of the internet to reach: root makes one, with ip(8)")
    ours, far = f"nsbox{os.getpid()}o", f"nsbox{os.getpid()}f"
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _make(ours, far)
        _enter(f"/run/netns/{ours}")
        yield far
    finally:
        libc.setns(home, libc.CLONE_NEWNET)
        os.close(home)
        for one in (ours, far):
            subprocess.run(["ip", "netns", "del", one], check=False, capture_output=True)


def _enter(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    libc.setns(descriptor, libc.CLONE_NEWNET)
    os.close(descriptor)


def _make(ours: str, far: str) -> None:
    for line in (
        f"netns add {ours}",
        f"netns add {far}",
        f"-n {ours} link set lo up",
        f"-n {far} link set lo up",
        f"-n {ours} link add lan type veth peer name lan netns {far}",
        f"-n {ours} addr add {_OURS}/24 dev lan",
        f"-n {far} addr add {_ROUTER}/24 dev lan",
        f"-n {far} addr add {ADDRESS}/32 dev lo",
        f"-n {ours} link set lan up",
        f"-n {far} link set lan up",
        f"-n {ours} route add default via {_ROUTER}",
    ):
        done = subprocess.run(["ip", *line.split()], capture_output=True, text=True, check=False)
        if done.returncode:
            raise HostProblem(f"ip {line}: {done.stderr.strip()}")
