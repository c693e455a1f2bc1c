"""The machine's disk: Debian's packages unpacked by mmdebstrap, some files of ours, an ext4 file system.

``python -m tests.host.image FOLDER`` is the part that needs root, or root of a user namespace.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.host import initrd, places, recipe
from tests.host.words import RigError, say

_BUILD_LIMIT_S = 900


class Image:
    """A built image. Nothing in it is written to again."""

    def __init__(self, folder: Path) -> None:
        self.disk, self.kernel, self.initrd = folder / "disk", folder / "kernel", folder / "initrd"
        self.key = folder / "key"  # logs in as root and as the ordinary user


def get(kernel: recipe.Kernel) -> Image:
    """The image of today's recipe, built when it is not in the cache."""
    final = places.cache() / f"image-{recipe.key(kernel)}"
    with _locked(places.cache() / "lock"):
        if not final.exists():
            _build(final, kernel)
    return Image(final)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two runs at once build one image."""
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another run that builds the image")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(final: Path, kernel: recipe.Kernel) -> None:
    begun = time.monotonic()
    say("building the disk of a Debian 12 machine (a minute or two, once)")
    work = Path(tempfile.mkdtemp(prefix="making-", dir=places.cache()))
    try:
        work.chmod(0o755)  # apt reads as a user of its own
        _quiet(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "nsbox tests", "-f", str(work / "key")])
        _bootstrap(work, kernel)
        second = [sys.executable, "-m", "tests.host.image", str(work)]
        # The files belong to many users: an ordinary account needs its subordinate ids to write them.
        mapped = [] if os.geteuid() == 0 else ["unshare", "--user", "--map-auto", "--map-root-user"]
        _quiet([*mapped, *second])
        # Renamed when whole: an interrupted build leaves nothing that looks like an image.
        work.rename(final)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    # Images of other recipes, and what a run left that was killed outright.
    stale = [one for kind in ("image", "making", "carry") for one in places.cache().glob(f"{kind}-*")]
    for old in stale:
        if old != final and time.time() - old.stat().st_mtime > 7 * 86_400:
            shutil.rmtree(old, ignore_errors=True)
    size = (final / "disk").stat().st_blocks * 512 >> 20
    say(f"built in {time.monotonic() - begun:.0f} s, {size} MiB: {final}")


def _sources(kernel: recipe.Kernel) -> str:
    """The Debian archives that this machine's own apt uses, for the image's release; empty: mmdebstrap's.

    Backports are in the archive that has the release itself, whether this machine's apt asks for them or not.
    """
    form = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)"
    done = subprocess.run(
        ["apt-get", "indextargets", "--format", form, "Created-By: Packages", "Origin: Debian"],
        capture_output=True,
        text=True,
        check=False,
    )
    rows = [line.split("|") for line in done.stdout.splitlines()]
    main = [(uri, release) for uri, release, component in rows if component == "main"]
    lines = [
        f"deb {uri} {release} main"
        for uri, release in main
        if release.partition("-")[0] == recipe.RELEASE and not release.endswith("-backports")
    ]
    if kernel is recipe.Kernel.BACKPORTS:
        lines += [f"deb {uri} {kernel.release} main" for uri, release in main if release == recipe.RELEASE]
    return "\n".join(dict.fromkeys(lines))


def _bootstrap(work: Path, kernel: recipe.Kernel) -> None:
    """``work/root.tar``: the packages, configured, and ``recipe.CUSTOMIZE`` done to them."""
    (work / "customize").write_text(recipe.CUSTOMIZE)
    sources = _sources(kernel)
    unused = "etc/initramfs-tools/update-initramfs.conf"
    command = [
        "mmdebstrap",
        "--variant=minbase",
        f"--include={','.join([kernel.package, *recipe.PACKAGES])}",
        '--aptopt=Acquire::Languages "none"',
        '--aptopt=Acquire::Check-Valid-Until "false"',
        '--aptopt=APT::Install-Recommends "false"',
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "doc", "locale", "info")),
        # The next line's file would make dpkg ask which one to keep.
        "--dpkgopt=force-confold",
        # Debian's own initial RAM disk would take longer than everything else, and is not used.
        f'--essential-hook=mkdir -p "$1/{os.path.dirname(unused)}"; echo update_initramfs=no >"$1/{unused}"',
        f"--customize-hook=copy-in {work}/customize /tmp",
        '--customize-hook=chroot "$1" sh /tmp/customize',
        '--customize-hook=rm "$1/tmp/customize"',
        recipe.RELEASE,
        str(work / "root.tar"),
        *(["-"] if sources else []),
    ]
    if os.geteuid() == 0:
        # In namespaces of its own: whatever it mounted is gone with it when it is interrupted, before the
        # folder is removed that it mounted it on.
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", *command]
    _quiet(command, text=sources + "\n", log=work / "log", TMPDIR=str(work))


def _quiet(command: list[str], *, text: str = "", log: Path | None = None, **more: str) -> None:
    """Run a command whose output is shown only when it fails. Interrupted, it is ended with its children."""
    with open(log, "w+b") if log else tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=places.environment(**more),
            cwd=Path(__file__).parents[2],
        )
        try:
            process.communicate(text.encode(), timeout=_BUILD_LIMIT_S)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise RigError(f"{command[0]} took more than {_BUILD_LIMIT_S} s") from error
            raise
        if process.returncode:
            output.seek(0)
            said = output.read().decode("utf-8", "replace")[-4000:]
            raise RigError(
                f"{command[0]} failed with status {process.returncode}; the image was not built:\n{said}"
            )


# ---- as root, or as root of a user namespace


def assemble(work: Path) -> None:
    """``root.tar`` to ``disk``, ``kernel`` and ``initrd``."""
    root = work / "root"
    root.mkdir()
    unpack = ["tar", "-C", str(root), "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf"]
    # An ordinary user can make no device files, and devtmpfs has them all.
    subprocess.run([*unpack, str(work / "root.tar"), "--exclude=./dev/*"], check=True)
    (work / "root.tar").unlink()
    (kernel,) = (root / "boot").glob("vmlinuz-*")
    shutil.copyfile(kernel, work / "kernel")
    (work / "initrd").write_bytes(initrd.make(root, recipe.BOOT_MODULES, recipe.BOOT_SCRIPT))
    for file in recipe.FILES:
        target = root / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # a symlink, perhaps
        target.write_text(file.text)
        target.chmod(file.mode)
    for home, owner in ((root / "root", 0), (root / "home" / recipe.USER, recipe.USER_ID)):
        folder = home / ".ssh"
        folder.mkdir(mode=0o700, exist_ok=True)
        shutil.copyfile(work / "key.pub", folder / "authorized_keys")
        for path in (folder, folder / "authorized_keys"):
            os.chown(path, owner, owner)
    make = ["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-O", "quota,project"]
    make += ["-E", "quotatype=usrquota:prjquota,lazy_itable_init=1,lazy_journal_init=1"]
    subprocess.run([*make, "-d", str(root), str(work / "disk"), recipe.DISK_SIZE], check=True)
    shutil.rmtree(root)


if __name__ == "__main__":
    assemble(Path(sys.argv[1]))
