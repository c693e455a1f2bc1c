"""A daemon for one command: `demo` and `run` start it, use it and end it.

The contract with `nsbox serve`: its standard output carries the line ``nsbox ready: http://HOST:PORT`` once
it serves; SIGTERM ends it in order.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import queue
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import IO, NamedTuple

import prctl

from nsbox.host.account import self_command
from nsbox.model.errors import HostProblem
from nsbox.settings import BOOTSTRAP_KEY_VARIABLE, default_state_dir

READY_PREFIX = "nsbox ready: "
#: The first start builds the default template, which copies some hundred MiB.
_START_TIMEOUT_S = 180
_STOP_TIMEOUT_S = 60
_READER_TIMEOUT_S = 5
_SHOWN_LINES = 30


class Daemon(NamedTuple):
    """A running private daemon."""

    url: str
    key: str


@contextlib.contextmanager
def private_daemon(environment: Mapping[str, str], state: str | None = None) -> Iterator[Daemon]:
    """A daemon that lives as long as the block, on the folder ``state`` or one apart from the service's.

    Raises ``HostProblem`` when it does not start.
    """
    key = "nsbox_" + secrets.token_urlsafe(32)
    folder = private_state_dir(environment) if state is None else contextlib.nullcontext(state)
    with _ended_in_order(), folder as state_dir, tempfile.TemporaryFile() as log:
        command, child = self_command(["serve", "--port", "0", "--limits", "best-effort"], environment)
        child |= {BOOTSTRAP_KEY_VARIABLE: key, "NSBOX_STATE_DIR": state_dir}
        process = subprocess.Popen(
            command,
            env=child,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            # Ctrl-C is for this process, which then ends the daemon in order.
            start_new_session=True,
            # The main thread forks, so the signal comes when this process dies, even by SIGKILL.
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - there is no other thread yet
        )
        assert process.stdout is not None
        answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        # It reads on to the end: a daemon that prints more must never wait on a full pipe.
        reader = threading.Thread(target=_read_lines, args=(process.stdout, answers), daemon=True)
        reader.start()
        try:
            yield Daemon(_wait_until_ready(process, answers, log), key)
        finally:
            _stop(process)
            reader.join(_READER_TIMEOUT_S)
            _forget(key, state_dir)


def _forget(key: str, state_dir: str) -> None:
    """The folder is kept: it must not collect keys, least of all such as still open it."""
    from nsbox.store.database import FILE_NAME
    from nsbox.store.keys import KeyTable

    if os.path.exists(os.path.join(state_dir, FILE_NAME)):
        with contextlib.suppress(HostProblem), KeyTable(state_dir) as table:
            table.forget(key)


def _die_with_parent() -> None:
    prctl.set_pdeathsig(signal.SIGTERM)


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """SIGTERM and SIGHUP run the ``finally`` clauses, as Ctrl-C does."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait_until_ready(
    process: subprocess.Popen[bytes], answers: queue.SimpleQueue[str | None], log: IO[bytes]
) -> str:
    try:
        url = answers.get(timeout=_START_TIMEOUT_S)
    except queue.Empty:
        raise HostProblem(f"the daemon was not ready within {_START_TIMEOUT_S} s{_end_of(log)}") from None
    if url is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_TIMEOUT_S)
        raise HostProblem(f"the daemon did not start (status {process.returncode}){_end_of(log)}")
    return url


def _read_lines(stream: IO[bytes], answers: queue.SimpleQueue[str | None]) -> None:
    with stream:
        for line in stream:
            text = line.decode(errors="replace").strip()
            if text.startswith(READY_PREFIX):
                answers.put(text.removeprefix(READY_PREFIX))
    answers.put(None)


def _end_of(log: IO[bytes]) -> str:
    # pread: the daemon writes through the same open file, and its offset is not ours to move.
    size = os.fstat(log.fileno()).st_size
    text = os.pread(log.fileno(), 65536, max(0, size - 65536)).decode(errors="replace").strip()
    return "".join(f"\n  {line}" for line in text.splitlines()[-_SHOWN_LINES:])


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def private_state_dir(environment: Mapping[str, str], fallback: str = "/var/tmp") -> Iterator[str]:  # noqa: S108
    """A state folder apart from the service's, kept between commands so that the images in it are.

    A second command at the same time gets one of its own, removed at the end; so does a user whose home
    cannot be written to, in ``fallback``, a folder on disk that is everybody's.
    """
    chosen = environment.get("NSBOX_STATE_DIR")
    folder = os.path.abspath(chosen or default_state_dir(environment)) + "-run"
    try:
        os.makedirs(os.path.dirname(folder), mode=0o700, exist_ok=True)
        # The kernel drops the lock with its last holder, however that ends.
        lock = os.open(folder + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        if chosen is None:
            with _temporary(fallback, "nsbox-run-") as spare:
                yield spare
            return
        raise HostProblem(
            f"no state folder can be made at {folder}: {error.strerror}",
            remedy="set NSBOX_STATE_DIR to a folder of yours",
        ) from error
    try:
        if _locked(lock):
            yield folder
        else:
            with _temporary(os.path.dirname(folder), os.path.basename(folder) + "-") as spare:
                yield spare
    finally:
        os.close(lock)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


@contextlib.contextmanager
def _temporary(parent: str, prefix: str) -> Iterator[str]:
    """Not in /tmp: that is a tmpfs on many hosts, which is memory, and no upper layer on older kernels."""
    spare = tempfile.mkdtemp(prefix=prefix, dir=parent)
    try:
        yield spare
    finally:
        # What the sandboxes wrote belongs to subordinate ids: only root of a namespace that has them may.
        subprocess.run(
            ["unshare", "--user", "--map-root-user", "--map-auto", "rm", "-rf", spare],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        # Where no namespace can be made, no sandbox ran either, and everything is ours.
        shutil.rmtree(spare, ignore_errors=True)
