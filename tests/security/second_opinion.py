# ruff: noqa: E501 - lists of programs are clearest as the lines that somebody would type
"""Programs that nobody here wrote, run in sandboxes of several templates, and what they say.

    sh scripts/second-opinion            prints; with a path, writes the whole of their output there as well

Debian's own of the last stable release. What is not to be had there is named in docs/second-opinion.md.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from tests.conftest import new_key
from tests.e2e.client import Api, Sandbox
from tests.e2e.daemon import Daemon, descendants, wait_until
from tests.registries import images, tools

_PACKAGES: Final = (
    "libcap2-bin", "libcap-ng-utils", "virt-what", "systemd", "lynis", "stress-ng", "checksec", "procenv", "unhide",
    "bubblewrap", "crun", "util-linux", "procps", "python3-minimal", "netbase",
)  # fmt: skip
_ELEVEN: Final = (
    "cap_chown,cap_dac_override,cap_fowner,cap_fsetid,cap_kill,cap_setgid,cap_setuid,cap_setpcap,"
    "cap_net_bind_service,cap_sys_chroot,cap_setfcap"
)
#: What of the image works anywhere, with the libraries that ldd names.
_PORTABLE: Final = (
    "/usr/sbin/capsh",
    "/usr/bin/captest",
    "/usr/bin/systemd-detect-virt",
    "/usr/bin/stress-ng",
)

#: Those that go at the kernel's interfaces, one at a time, a second each. None that only fills memory: this is
#: about walls, and a host without a memory controller would pay for it. Nor those that stress-ng itself runs only
#: when told that the machine may hang. io-uring, key, rawpkt, rawsock and reboot fail: they are refused.
_STRESSORS: Final = (
    "access", "af-alg", "cap", "chown", "chroot", "clone", "close", "daemon", "dev-shm", "dnotify",
    "dynlib", "enosys", "env", "eventfd", "fanotify", "fault", "fcntl", "fork", "fpunch", "get", "handle", "inotify",
    "io-uring", "ioprio", "kcmp", "key", "kill", "klog", "landlock", "loop", "membarrier", "mknod", "mlock",
    "mq", "msg", "netlink-proc", "nice", "opcode", "open", "personality", "pidfd", "pipe", "prctl", "procfs", "pty",
    "ptrace", "quota", "ramfs", "rawpkt", "rawsock", "reboot", "rlimit", "schedpolicy", "seccomp", "secretmem", "sem",
    "set", "shm-sysv", "sigpending", "sigq", "sock", "sockfd", "sockpair", "splice", "swap", "switch", "sysbadaddr",
    "sysfs", "sysinfo", "syscall", "timer", "timerfd", "tmpfs", "tun", "umount", "unshare", "usersyscall",
    "userfaultfd", "utime", "vdso", "vforkmany", "xattr", "zombie",
)  # fmt: skip


class Said(NamedTuple):
    """What a program was asked, the figure that matters, whether it is what it should be, and all it said."""

    where: str
    program: str
    figure: str
    fine: bool
    text: str


# ---- the images


def _debian(folder: str) -> Path:
    """A root of Debian's packages as a tar, made once for each list of them."""
    os.makedirs(folder, exist_ok=True)
    name = hashlib.sha256(" ".join(_PACKAGES).encode()).hexdigest()[:16]
    tar = Path(folder, f"tools-{name}.tar")
    if not tar.exists():
        tools.need("mmdebstrap")
        part = f"{folder}/part.tar"
        command = [
            "mmdebstrap",
            "--quiet",
            "--variant=apt",
            f"--include={','.join(_PACKAGES)}",
            "bookworm",
            part,
        ]
        subprocess.run(command, check=True)
        os.rename(part, tar)
    return tar


def _import(daemon: Daemon, name: str, layer: images.MadeLayer) -> str:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        made = images.image([layer], Env=["PATH=/usr/sbin:/usr/bin:/sbin:/bin"])
        tools.write_layout(Path(folder), made)
        for path, folders, names in os.walk(folder):
            for one in (path, *(os.path.join(path, other) for other in folders + names)):
                os.chmod(one, 0o755)
        done = daemon.nsbox_on_state("image", "import", folder, "--name", name)
        assert done.returncode == 0, done.stderr
    return name


def _carry(source: Sandbox, target: Sandbox, program: str) -> str:
    """Bring a program and its libraries from one sandbox into another; how to call it there."""
    listed = source.out(["ldd", program])
    paths = {program, *re.findall(r"(/\S+) \(0x", listed)}
    loader = next(path for path in paths if os.path.basename(path).startswith("ld-linux"))
    for path in sorted(paths):
        answer = source.download(path)
        assert answer.status == 200, answer
        put = target.upload(f"/opt/carried/{os.path.basename(path)}", answer.body, mode="755")
        assert put.status == 200, put
    there = "/opt/carried"
    return f"{there}/{os.path.basename(loader)} --library-path {there} {there}/{os.path.basename(program)}"


# ---- the programs


def _capabilities(where: str, box: Sandbox, capsh: str) -> Iterator[Said]:
    text = box.run(f"{capsh} --print 2>&1", timeoutMs=60_000)["stdout"]
    current = re.search(r"^Current: (.*)$", text, re.MULTILINE)
    bounding = re.search(r"^Bounding set =(.*)$", text, re.MULTILINE)
    kept = bounding.group(1) if bounding else "?"
    fine = (
        kept == _ELEVEN and current is not None and current.group(1) == f"{_ELEVEN}=ep" and "Ambient set =\n" in text
        and "no-new-privs=1" in text
    )  # fmt: skip
    yield Said(
        where,
        "capsh --print",
        f"{len(kept.split(','))} in the bounding set, no_new_privs, none ambient",
        fine,
        text,
    )


def _captest(where: str, box: Sandbox, captest: str) -> Iterator[Said]:
    """It reads /etc/shadow, which is the sandbox's own and belongs to root inside: that may succeed. What must
    not is to get back what was given up."""
    for option in ("--drop-all", "--id"):
        text = box.run(f"{captest} {option} 2>&1", timeoutMs=60_000)["stdout"]
        tries = re.findall(r"^Attempting (.*)\.\.\.(SUCCESS|FAILED)", text, re.MULTILINE)
        fine = not any("regain" in what and answer == "SUCCESS" for what, answer in tries)
        told = ", ".join(f"{what}: {answer}" for what, answer in tries)
        yield Said(where, f"captest {option}", told, fine, text)


def _virt(where: str, box: Sandbox, detect: str) -> Iterator[Said]:
    for option in ("--container", "--vm"):
        result = box.run(f"{detect} {option} 2>&1", timeoutMs=60_000)
        yield Said(where, f"systemd-detect-virt {option}", result["stdout"].strip(), True, result["stdout"])


def _looking(where: str, box: Sandbox) -> Iterator[Said]:
    """Those that look, and those that try to make a box of their own."""

    def one(program: str, figure: Callable[[str], str], fine: Callable[[str, int], bool]) -> Said:
        result = box.run(f"timeout 60 {program} 2>&1", timeoutMs=80_000)
        text = result["stdout"]
        return Said(where, program, figure(text), fine(text, result["exitCode"] or 0), text)

    last = lambda text: (text.strip().splitlines() or ["nothing"])[-1][:110]  # noqa: E731
    yield one("virt-what", lambda text: text.replace("\n", " ").strip() or "nothing", lambda text, code: True)
    yield one("checksec --kernel", last, lambda text, code: True)
    yield one("procenv", lambda text: f"{len(text.splitlines())} lines", lambda text, code: code == 0)
    for program in ("bwrap --unshare-all --ro-bind / / true", "bwrap --ro-bind / / true", "unshare -Ur true", "unshare -m true",
                    "nsenter -t 1 -a true", "sh -c 'mkdir -p /tmp/b/rootfs; cd /tmp/b; crun spec; crun --root /tmp/r run x'", "mount -t tmpfs none /mnt", "mount -o remount,rw /proc/sys",
                    "sysctl -w kernel.core_pattern=x", "dmesg", "chrt -f 1 true",
                    "losetup -f /etc/passwd", "mknod /tmp/sda b 8 0", "date -s 2020-01-01", "hostname other"):  # fmt: skip
        yield one(program, last, lambda text, code: code != 0)
    command = "lynis audit system --quick --no-colors >/tmp/lynis 2>&1; cat /var/log/lynis-report.dat >>/tmp/lynis; touch /tmp/done"
    box.request("POST", "/processes", {"command": command})
    wait_until(lambda: box.run("test -e /tmp/done")["exitCode"] == 0, 400, "lynis has ended")
    text = box.out("cat /tmp/lynis")
    found = {name: text.count(f"\n{name}[]=") for name in ("warning", "suggestion")}
    index = re.search(r"hardening_index=(\d+)", text)
    figure = f"hardening index {index.group(1) if index else '?'}, {found['warning']} warnings, {found['suggestion']} suggestions"
    yield Said(where, "lynis audit system", figure, index is not None, text)


class Watch:
    """A neighbour and the daemon, asked all the time while others make trouble."""

    def __init__(self, api: Api, neighbour: Sandbox) -> None:
        self._api, self._neighbour = api, neighbour
        self.times: list[float] = []
        self.failures: list[str] = []
        self._over = threading.Event()

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()
        return self

    def __exit__(self, *about: object) -> None:
        self._over.set()
        self._thread.join()

    def _ask(self) -> None:
        while not (self.times and self._over.wait(0.25)):
            begun = time.monotonic()
            try:
                answer = self._neighbour.exec(["true"])
                health = self._api.request("GET", "//healthz")
                if answer.status != 200 or answer.json["exitCode"] != 0 or health.status != 200:
                    self.failures.append(f"{answer} {health.status}")
            except (OSError, AssertionError) as error:
                self.failures.append(repr(error))
            self.times.append(1000 * (time.monotonic() - begun))


def _complaints() -> set[str]:
    """What the kernel has said of itself that it should not have had to."""
    told = subprocess.run(["dmesg", "-t"], capture_output=True, text=True, check=False).stdout
    return {
        line
        for line in told.splitlines()
        if re.search(r"BUG|Oops|WARNING:|general protection|Call Trace", line)
    }


def _stress(where: str, api: Api, box: Sandbox, stress: str, names: tuple[str, ...]) -> Iterator[Said]:
    before, texts, codes = _complaints(), [], dict.fromkeys(names, "")
    with Watch(api, api.sandbox()) as watch:
        for name in names:
            result = box.run(
                f"mkdir -p /tmp && cd /tmp && {stress} --{name} 1 --timeout 1s 2>&1", timeoutMs=20_000
            )
            said = str(result["stdout"])
            codes[name] = {0: "ran", 2: "failed", 3: "cannot run here", 4: "not here"}.get(
                result["exitCode"], "ended"
            )
            texts.append(f"---- {name}: {codes[name]}, {result['outcome']}\n{said}")
    new = _complaints() - before
    counted = ", ".join(f"{list(codes.values()).count(one)} {one}" for one in sorted(set(codes.values())))
    p50, worst = statistics.median(watch.times), max(watch.times)
    figure = (
        f"{len(names)} stressors: {counted}; a neighbour and the daemon asked {len(watch.times)} times meanwhile: "
        f"{len(watch.failures)} failures, p50 {p50:.0f} ms, most {worst:.0f} ms; kernel complaints: {len(new)}"
    )
    alive = box.run("echo alive")["stdout"] == "alive\n"
    text = "\n".join([*texts, *watch.failures, *new])
    yield Said(where, "stress-ng", figure, alive and not watch.failures and not new, text)


# ---- all of it


@contextmanager
def _daemon() -> Iterator[Daemon]:
    one = Daemon(key=new_key(), settings={"NSBOX_AUTH_FAILURES": "10000"})
    try:
        yield one.start()
    finally:
        one.close()


def _all(daemon: Daemon, folder: str) -> Iterator[Said]:
    blob = _debian(folder).read_bytes()
    debian = _import(daemon, "second/opinion:1", images.MadeLayer(blob, images.sha256(blob), ""))
    del blob
    tools.need("/bin/busybox")
    busybox = Path("/bin/busybox").read_bytes()
    small = _import(
        daemon, "second/busybox:1", images.layer({"bin/busybox": busybox, "bin/sh": "busybox"}, "none")
    )
    with daemon.api() as api:
        source = api.sandbox(image=debian)
        boxes = {"Debian": source, "default": api.sandbox(), "busybox": api.sandbox(image=small)}
        stressing = {}
        for where, box in boxes.items():
            capsh, captest, detect, stressing[where] = (
                program if box is source else _carry(source, box, program) for program in _PORTABLE
            )
            yield from _capabilities(where, box, capsh)
            yield from _captest(where, box, captest)
            yield from _virt(where, box, detect)
            if box is source:
                yield from _looking(where, box)
        for where, box in boxes.items():
            names = _STRESSORS if box is source else ("syscall", "enosys")
            yield from _stress(where, api, box, stressing[where], names)
        for row in api.request("GET", "/sandboxes").json:
            api.kill(row["id"])
        left = [one for one in descendants(daemon.pid) if one.name.startswith("stress")]
        wait_until(lambda: not [one for one in descendants(daemon.pid) if one.name.startswith("stress")], 30)
        yield Said("host", "after all", f"{len(left)} processes of theirs left", not left, "")


def main(arguments: list[str]) -> int:
    """1 when something is not as it should be."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the daemon is ended, too
    wrong, count = 0, 0
    begun = time.monotonic()
    with (
        open(arguments[0] if arguments else os.devnull, "w", encoding="utf-8") as report,
        _daemon() as daemon,
    ):
        for said in _all(daemon, os.environ["NSBOX_SECOND_OPINION"]):
            count, wrong = count + 1, wrong + (not said.fine)
            line = f"{'fine ' if said.fine else 'LOOK '} {said.where:<8} {said.program}: {said.figure}"
            print(line, flush=True)
            print(f"==== {line}\n{said.text}", file=report, flush=True)
    print(f"{count} opinions, {wrong} to look at, {time.monotonic() - begun:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    assert shutil.which("dmesg")
    sys.exit(main(sys.argv[1:]))
