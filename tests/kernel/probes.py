"""What runs in the outer namespace and in sandboxes' namespaces on behalf of the tests of this folder.

``main`` is started by ``nsbox.host.outer``, as keeper is. It gets one JSON object and prints another.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from typing import Any

import prctl

from nsbox.inside import privileges, rootfs
from nsbox.kernel import capabilities, libc, mounts, namespaces, seccomp
from nsbox.plan import baseline


def main(arguments: list[str]) -> int:
    order = json.loads(arguments[0])
    known = {"identity": identity, "rootfs": root_of_a_sandbox, "overlay": overlay_of_layers, "wait": wait}
    said = known[order["do"]](order)
    print(json.dumps(said), flush=True)
    return 0


def identity(order: dict[str, Any]) -> dict[str, Any]:
    """Who and where this process is."""

    def read(path: str) -> str:
        with open(path, encoding="ascii") as file:
            return file.read()

    return {
        "pid": os.getpid(),
        "ids": [os.getresuid(), os.getresgid(), os.getgroups()],
        "uid_map": [[int(cell) for cell in line.split()] for line in read("/proc/self/uid_map").splitlines()],
        "gid_map": [[int(cell) for cell in line.split()] for line in read("/proc/self/gid_map").splitlines()],
        "environment": dict(os.environ),
        "fds": sorted(int(name) for name in os.listdir("/proc/self/fd") if int(name) > 2),
        "namespaces": {name: os.readlink(f"/proc/self/ns/{name}") for name in ("user", "mnt", "pid", "net")},
        "kept": os.fstat(order["descriptor"]).st_ino if "descriptor" in order else 0,
    }


def wait(order: dict[str, Any]) -> dict[str, Any]:
    """Three generations of processes that end only when they are made to."""
    prctl.set_pdeathsig(signal.SIGKILL)  # whatever becomes of the test
    reader, writer = os.pipe()
    for _ in range(order["processes"] // 2):
        if os.fork() == 0:
            os.setsid()
            os.fork()
            os.write(writer, b"x")
            while True:
                signal.pause()
    for _ in range(order["processes"]):
        os.read(reader, 1)
    print(json.dumps({"ready": True}), flush=True)
    while True:
        signal.pause()


def root_of_a_sandbox(order: dict[str, Any]) -> dict[str, Any]:
    """Enter an overlay of ``layer`` as an init does; what went wrong, or what is seen from inside."""
    folder = order["folder"]
    mounts.make_private()
    # pid 1 of a pid namespace whose /proc is not its own would find nobody in there.
    mounts.mount_new("proc", "/proc", attributes=libc.MOUNT_ATTR_NOSUID | libc.MOUNT_ATTR_NODEV)
    for name in ("upper", "work"):
        os.mkdir(f"{folder}/{name}")
        os.chown(f"{folder}/{name}", namespaces.OUTER_OFFSET, namespaces.OUTER_OFFSET)
    os.chdir(folder)
    mount = mounts.overlay_by_page if order.get("by_page") else mounts.overlay
    root = mount(order.get("layers", ["layer"]), "upper", "work")
    ours, theirs = socket.socketpair()
    pid = libc.clone3(namespaces.SANDBOX_FLAGS)
    if pid == 0:
        _init(theirs, root)
    theirs.close()
    namespaces.write_sandbox_maps(pid)
    ours.send(b"x")
    with ours.makefile("r") as answer:
        said = answer.read()
    os.waitpid(pid, 0)
    result: dict[str, Any] = json.loads(said)
    return result


def overlay_of_layers(order: dict[str, Any]) -> dict[str, Any]:
    """Mount ``layers`` of ``folder`` in the way that ``way`` names; what is seen, and where a write goes."""
    mounts.make_private()
    os.chdir(f"{order['folder']}/layers")
    upper, work = order["upper"], order["work"]
    before = _mount_points()
    try:
        root = getattr(mounts, order["way"])(order["layers"], upper, work)
    except OSError as error:
        return {"errno": error.errno, "left": _mount_points() - before}
    left = _mount_points() - before
    os.mkdir("../seen")
    mounts.attach(root, "../seen")
    with open("../seen/made", "w", encoding="ascii") as file:
        file.write("x")
    with open("/proc/self/mountinfo", encoding="ascii") as file:
        line = next(line for line in file if line.split()[4].endswith("/seen"))
    with open("../seen/last", encoding="ascii") as file:
        last = file.read()
    return {
        "left": left,
        "names": sorted(os.listdir("../seen")),
        "last": last,
        "upper": sorted(os.listdir(upper)),
        "nodev": "nodev" in line.split()[5],
        "userxattr": "userxattr" in line.split()[-1].split(","),
        # What overlayfs marks such a mount by (Documentation/filesystems/overlayfs.rst): not every kernel
        # lists the option.
        "volatile": os.path.isdir(f"{work}/work/incompat/volatile"),
    }


def _mount_points() -> int:
    with open("/proc/self/mountinfo", encoding="ascii") as file:
        return len(file.readlines())


def _init(sock: socket.socket, root: int) -> None:
    said: dict[str, Any] = {}
    try:
        sock.recv(1)
        namespaces.become_root()
        libc.unshare(libc.CLONE_NEWCGROUP)
        os.umask(0)
        rootfs.stage(baseline.prepare())
        os.umask(0o022)
        gone = capabilities.all_but()
        privileges.promise(gone)
        rootfs.enter(root)
        os.close(root)
        privileges.drop(gone, libc.Filter(seccomp.init_policy(os.uname().machine)))
        said = seen()
    except OSError as error:
        said = {"errno": error.errno, "error": str(error)}
    except BaseException as error:
        said = {"crash": repr(error)}
    sock.send(json.dumps(said).encode())
    os._exit(0)


def seen() -> dict[str, Any]:
    """The walls, tried from inside."""
    return {
        "root": sorted(os.listdir("/")),
        "dev": sorted(os.listdir("/dev")),
        "mounts": [line.split()[1] for line in open("/proc/mounts", encoding="ascii")],
        "masked": {path: emptiness(path) for path in baseline.MASKED},
        "readonly": {path: writable(path) for path in baseline.READONLY},
        "budgets": {name: number_in(f"/proc/sys/user/{name}") for name in baseline.BUDGETS},
        "null": tried(lambda: os.write(os.open("/dev/null", os.O_WRONLY), b"x")),
        "zero": tried(lambda: os.read(os.open("/dev/zero", os.O_RDONLY), 4).hex()),
        "mknod": tried(lambda: os.mknod("/dev/mine", 0o20666, os.makedev(1, 3))),
        "mount": tried(lambda: libc.mount(None, b"/", None, libc.MS_REMOUNT | libc.MS_BIND)),
        "umount": tried(lambda: libc.umount(b"/proc")),
        "unshare": tried(lambda: libc.unshare(libc.CLONE_NEWUSER)),
        "caps": [
            line.split()[1] for line in open("/proc/self/status", encoding="ascii") if line.startswith("Cap")
        ],
        "no_new_privs": prctl.get_no_new_privs(),
        "pid": os.getpid(),
        "pids": [int(name) for name in os.listdir("/proc") if name.isdigit()],
        "write": tried(lambda: os.close(os.open("/made", os.O_CREAT | os.O_WRONLY))),
        "argv": sys.argv[:0],
    }


def tried(work: Any) -> Any:
    """What it gives, or the errno as a negative number."""
    try:
        return work()
    except OSError as error:
        return -(error.errno or 0)


def emptiness(path: str) -> str:
    """``absent``, ``empty`` or ``full``."""
    if not os.path.lexists(path):
        return "absent"
    if os.path.isdir(path):
        return "full" if os.listdir(path) else "empty"
    data = tried(lambda: os.read(os.open(path, os.O_RDONLY), 10).hex())
    return "empty" if data == "" else f"full: {data}"


def writable(path: str) -> Any:
    if not os.path.lexists(path):
        return "absent"
    return not os.statvfs(path).f_flag & os.ST_RDONLY


def number_in(path: str) -> Any:
    def read() -> int:
        with open(path, encoding="ascii") as file:
            return int(file.read())

    return tried(read)
