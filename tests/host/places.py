"""Where the rig keeps its files, and what this machine must have for it."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

from tests.host.words import RigError, say

#: A program (or a file) that must be there, and Debian's package that has it.
_TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "tar": "tar",
    "/usr/share/seabios/bios-256k.bin": "seabios",
    "/usr/share/qemu/linuxboot_dma.bin": "qemu-system-data",
}
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


def search_path() -> str:
    """An ordinary user's PATH on Debian lacks sbin, where mke2fs is."""
    return f"{os.environ.get('PATH', '/usr/bin:/bin')}:{_SBIN}"


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PATH": search_path(), **more}


def cache() -> Path:
    """Images are kept here: some 600 MB each."""
    chosen = os.environ.get("NSBOX_HOST_CACHE")
    if chosen:
        folder = Path(chosen)
    elif os.geteuid() == 0:
        folder = Path("/var/lib/nsbox-dev/host")
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nsbox-dev" / "host"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run_folder() -> Path:
    """What running machines leave: a short path, since a socket's name has 107 bytes at most."""
    folder = Path(tempfile.gettempdir()) / f"nsbox-host-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if (
        not stat.S_ISDIR(found.st_mode)
        or found.st_uid != os.geteuid()
        or stat.S_IMODE(found.st_mode) != 0o700
    ):
        raise RigError(f"{folder} is not a folder of yours with mode 0700; remove it")
    return folder


def _is_there(tool: str) -> bool:
    return (
        os.path.exists(tool) if tool.startswith("/") else shutil.which(tool, path=search_path()) is not None
    )


def need_tools() -> None:
    """Install with apt what is missing. Raises ``RigError`` where that is not possible."""
    missing = sorted(
        {name for tool, names in _TOOLS.items() if not _is_there(tool) for name in names.split()}
    )
    if not missing:
        return
    say(f"installing with apt: {' '.join(missing)}")
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    apt = [*root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-y", "-qq"]
    install = [*apt, "-o", "DPkg::Lock::Timeout=300", "--no-install-recommends", "install", *missing]
    # The lists are fetched only when the first try fails, as in scripts/lib.sh.
    if _apt(install).returncode:
        _apt([*apt, "update"])
        if (done := _apt(install)).returncode:
            raise RigError(
                f"the machine needs {' '.join(missing)}, and apt could not install it:\n{done.stdout[-2000:]}"
            )
    if still := [tool for tool in _TOOLS if not _is_there(tool)]:
        raise RigError(f"installed, and still not there: {' '.join(still)}")


def _apt(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        return subprocess.CompletedProcess(command, 127, f"{error}", "")
