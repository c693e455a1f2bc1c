"""A daemon of our own: a state folder, a key, a port; all of it gone afterwards."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import partial
from urllib.parse import urlsplit

from bench import proc
from bench.account import Who
from bench.client import Client
from nsbox.host.account import self_command
from nsbox.model.errors import HostProblem

#: The first start builds the default template.
_START = 120.0
_STOP = 30.0
_READY = b"nsbox ready: "
_CGROUPS = ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")


class Daemon:
    """A running `nsbox serve`. ``pool``: how many blanks it keeps in stock."""

    def __init__(
        self, who: Who, process: subprocess.Popen[bytes], url: str, key: str, state: str, pool: int
    ) -> None:
        self.who = who
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self.address, self.key = (parts.hostname, parts.port), key
        self.state, self.pool = state, pool
        self.supervisor = process.pid
        family = {proc.name_of(pid): pid for pid in proc.children(process.pid)}
        self.keeper, self.api = family["nsbox-keeper"], family["nsbox-api"]

    def client(self) -> Client:
        return Client(self.address, self.key)

    @property
    def layer(self) -> str:
        """The folder of the default template's only layer."""
        folder = os.path.join(self.state, "layers")
        names = sorted(name for name in os.listdir(folder) if name.startswith("default-"))
        if not names:
            raise HostProblem("the default template has no layer folder")
        return os.path.join(folder, names[0])

    def inits(self) -> int:
        """How many sandboxes and blanks there are."""
        return sum(proc.name_of(pid) == "nsbox-init" for pid in proc.children(self.keeper))

    def wait_for_inits(self, count: int, patience: float = 10.0) -> None:
        """Until there are exactly so many, and then a moment for the last one to get ready."""
        deadline = time.monotonic() + patience
        while self.inits() != count:
            if time.monotonic() > deadline:
                raise HostProblem(f"{self.inits()} inits where {count} were expected")
            time.sleep(0.005)
        time.sleep(0.02)


@contextlib.contextmanager
def running(
    who: Who, pool: int, settings: Mapping[str, str] | None = None, sources: str = ""
) -> Iterator[Daemon]:
    """Start a daemon with ``pool`` blanks in stock; end it and remove every trace. ``sources``: a folder with
    another nsbox than this one."""
    # /tmp may be a tmpfs: memory, and another file system than a service's state has.
    state = tempfile.mkdtemp(prefix="nsbox-bench-", dir="/var/tmp")
    key = "bench_" + secrets.token_urlsafe(24)
    process = None
    with tempfile.TemporaryFile() as log:
        try:
            if who.by_root:
                os.chown(state, who.uid, who.gid)
            own = {"NSBOX_BOOTSTRAP_KEY": key, "NSBOX_POOL_SIZE": str(pool), **(settings or {})}
            start = _start if not sources else partial(_start_of, sources)
            process = start(who, state, own, log.fileno())
            yield Daemon(who, process, _ready(process, log.fileno()), key, state, pool)
        finally:
            if process is not None:
                _stop(process, who)
            _remove(state, who)


def _start(who: Who, state: str, own: Mapping[str, str], log: int) -> subprocess.Popen[bytes]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NSBOX_")}
    kept |= own
    account = ["--service-user", who.name] if who.by_root else []
    options = ["--port", "0", "--limits", "best-effort", "--state-dir", state, *account]
    command, environment = self_command(["serve", *options], kept)
    return subprocess.Popen(
        command, env=environment, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
    )


def _start_of(
    sources: str, who: Who, state: str, own: Mapping[str, str], log: int
) -> subprocess.Popen[bytes]:
    """As the account at once: a daemon that root starts keeps nothing of what says where its sources are."""
    command = [sys.executable, "-P", "-m", "nsbox", "serve", "--port", "0", "--limits", "best-effort"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NSBOX_")}
    environment = {**kept, **own, "PYTHONPATH": sources, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen(
        [*command, "--state-dir", state],
        env=environment, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
        **who.identity,
    )  # fmt: skip


def _ready(process: subprocess.Popen[bytes], log: int) -> str:
    assert process.stdout is not None
    deadline = time.monotonic() + _START
    received = b""
    while time.monotonic() < deadline:
        if select.select([process.stdout], [], [], 0.5)[0]:
            chunk = os.read(process.stdout.fileno(), 65_536)
            received += chunk
            for line in received.splitlines():
                if line.startswith(_READY):
                    return line[len(_READY) :].decode()
            if not chunk:
                break
    said = os.pread(log, 4_096, max(0, os.fstat(log).st_size - 4_096)).decode(errors="replace")
    raise HostProblem(f"nsbox serve did not get ready:\n{said}", remedy="nsbox doctor")


def _stop(process: subprocess.Popen[bytes], who: Who) -> None:
    given = _given_cgroup(process.pid, who)
    process.terminate()
    try:
        process.wait(_STOP)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
    if given:
        _remove_cgroup(given)


def _given_cgroup(pid: int, who: Who) -> str:
    """The cgroup that root made for the daemon where there is no systemd; nobody else would remove it."""
    for line in proc.read(f"{proc.PROC}/{pid}/cgroup").splitlines():
        if who.by_root and line.startswith("0::"):
            parts = line[3:].split("/")
            for index, part in enumerate(parts):
                if part.startswith(f"nsbox-{who.name}-"):
                    return "/".join(parts[: index + 1])
    return ""


def _remove_cgroup(path: str) -> None:
    for mount in _CGROUPS:
        for folder, _, _ in os.walk(mount + path, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def _remove(state: str, who: Who) -> None:
    """Layers and sandboxes belong to subordinate ids: an ordinary user needs a namespace that has them."""
    if not who.by_root:
        mapped = ["unshare", "--user", "--map-auto", "--map-root-user", "rm", "-rf", state]
        with contextlib.suppress(OSError):
            subprocess.run(mapped, check=False, capture_output=True)
    shutil.rmtree(state, ignore_errors=True)
