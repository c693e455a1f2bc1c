"""One running machine: booted, reached, ended. Its state is a folder, so that another command finds it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.host import places, qemu, recipe
from tests.host.image import Image
from tests.host.login import Login
from tests.host.words import BootHung, RigError, say

_BOOT_LIMIT_S = 150.0
_TRIES = 3
MEMORY_MB = 3072


class Machine:
    """A machine by name. ``root`` and ``user`` are its accounts, once it is up."""

    def __init__(self, name: str) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,30}", name):
            raise RigError(f"a machine is not called {name!r}: letters, digits, dots and dashes")
        self.name = name
        self.folder = places.run_folder() / name
        self._process: subprocess.Popen[bytes] | None = None

    # ---- accounts

    def _login(self, account: str) -> Login:
        try:
            port, key = (self.folder / "reach").read_text().split("\n", 1)
        except OSError as error:
            raise RigError(f"no machine {self.name!r} is up; first: python -m tests.host up") from error
        return Login(account, int(port), Path(key), self.folder)

    @property
    def root(self) -> Login:
        return self._login("root")

    @property
    def user(self) -> Login:
        return self._login(recipe.USER)

    # ---- up and down

    def boot(self, image: Image, *, dies_with_us: bool) -> None:
        """Returns when both accounts can log in. A boot that hangs is thrown away and tried again."""
        if self.pid:
            raise RigError(f"machine {self.name!r} is up already")
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        for left in reversed(range(_TRIES)):
            try:
                self._boot_once(image, dies_with_us)
                return
            except BootHung as error:
                self.kill()
                if not left:
                    raise
                say(f"{error}; trying again")

    def _boot_once(self, image: Image, dies_with_us: bool) -> None:
        begun = time.monotonic()
        (self.folder / "console").unlink(missing_ok=True)
        port = _free_port()
        (self.folder / "reach").write_text(f"{port}\n{image.key}")
        kind = "with KVM" if qemu.kvm_works() else "emulated"
        say(f"booting a machine ({kind}, 2 processors, {MEMORY_MB} MiB)")
        self._process = qemu.start(
            image, self.folder, port=port, memory_mb=MEMORY_MB, dies_with_us=dies_with_us
        )
        (self.folder / "pid").write_text(f"{self._process.pid} {_started(self._process.pid)}")
        deadline = begun + _BOOT_LIMIT_S
        self._await(lambda: recipe.READY in self.console(), deadline, "no login")
        for login in (self.root, self.user):
            self._await(login.answers, deadline, f"{login.user} cannot log in")
        say(f"up after {time.monotonic() - begun:.0f} s")

    def _await(self, condition: object, deadline: float, what: str) -> None:
        assert callable(condition)
        while not condition():
            if not self.pid:
                log = (self.folder / "qemu.log").read_text(errors="replace")
                raise BootHung(f"the machine stopped while it booted:\n{log}{self.console()[-2000:]}")
            if time.monotonic() > deadline:
                raise BootHung(
                    f"{what} after {_BOOT_LIMIT_S:.0f} s; the console's end:\n{self.console()[-2000:]}"
                )
            time.sleep(0.2)

    def console(self) -> str:
        try:
            return (self.folder / "console").read_text(errors="replace")
        except OSError:
            return ""

    @property
    def pid(self) -> int:
        """QEMU's, 0 when it does not run. The start time tells it from a later process of that number."""
        if self._process is not None and self._process.poll() is not None:
            return 0
        try:
            pid, started = map(int, (self.folder / "pid").read_text().split())
        except (OSError, ValueError):
            return 0
        return pid if _started(pid) == started else 0

    def kill(self) -> None:
        """End it as a power cut would: nothing on its disk is kept anyway."""
        if not self.folder.exists():
            return
        with contextlib.suppress(RigError):
            for login in (self.root, self.user):
                login.hang_up()
        if pid := self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            if self._process is not None:
                self._process.wait()
            while self.pid:
                time.sleep(0.05)
        self._process = None

    def remove(self) -> None:
        """End it and forget it."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def _started(pid: int) -> int:
    """When a process started, in ticks since boot; 0 for one that is dead."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def save_journal(machine: Machine, target: Path) -> None:
    """Keep the machine's journal beside the results: what a failed test said is there."""
    with open(target, "wb") as file, contextlib.suppress(RigError):
        if machine.root.run("journalctl --boot --no-pager --output=short-precise", limit=120, output=file):
            print("test-host: the journal could not be read", file=sys.stderr)
