"""What setup does for the sandboxes' way to the internet: the program that carries packets, and its device.

Neither is needed to make sandboxes, and neither is taken back by ``--undo``: others may use them by then.
"""

from __future__ import annotations

import os
import shlex
import shutil
import stat
from collections.abc import Callable, Sequence
from typing import Final

from nsbox.cli import setup_steps
from nsbox.model.errors import HostProblem

_WITHOUT: Final = "sandboxes can be made, and reach nothing until it is there (nsbox doctor says so)"
_APT: Final = ("apt-get", "install", "--yes", "--no-install-recommends", "passt")
_UPDATE: Final = ("apt-get", "update")


class InstallPasta:
    """The package passt, where nobody has installed pasta yet."""

    title = "pasta, the sandboxes' way to the internet"
    without = _WITHOUT

    def __init__(self, find: Callable[[str], str | None] = shutil.which) -> None:
        self._find = find

    def is_done(self) -> bool:
        return self._find("pasta") is not None

    def commands(self) -> Sequence[str]:
        if self._find(_APT[0]) is None:
            return ["install the package passt (or pasta) as this distribution does"]
        return [f"{shlex.join(_APT)}  # after {shlex.join(_UPDATE)} where it is not found"]

    def apply(self) -> None:
        if self._find(_APT[0]) is None:
            raise HostProblem("there is no apt-get to install it with", remedy=self.commands()[0])
        # A question would be asked of nobody.
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        try:
            setup_steps.run(_APT, quiet)
        except HostProblem:
            # The lists of a fresh machine are empty, those of an old one name versions that are gone.
            setup_steps.run(_UPDATE, quiet)
            setup_steps.run(_APT, quiet)


class MakeTun:
    """The device that pasta opens, where there is none: where udev runs, it is made at boot, for everybody.

    One that is there and closed is left alone: somebody may have meant it, and ``nsbox doctor`` names it.
    """

    without = _WITHOUT

    def __init__(self, path: str = "/dev/net/tun") -> None:
        self._path = path
        self.title = f"the device {path}"

    def is_done(self) -> bool:
        return os.path.exists(self._path)

    def _argvs(self) -> list[list[str]]:
        return [["modprobe", "tun"], ["chmod", "0666", self._path]]

    def commands(self) -> Sequence[str]:
        return [shlex.join(argv) for argv in self._argvs()]

    def apply(self) -> None:
        for argv in self._argvs():
            setup_steps.run(argv)
        if not stat.S_ISCHR(os.stat(self._path).st_mode):
            raise HostProblem(f"{self._path} is no device")
