"""Commands: their results, processes, and what comes while they run."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from nsbox.client.errors import ApiError, CommandFailed
from nsbox.client.types.base import Answered

_SHOWN = 500


class ExecAnswer(Answered, frozen=True):
    """What ``POST …/exec`` gives, with outputs in base64."""

    stdout: str
    stderr: str
    exit_code: int | None
    duration_ms: int
    outcome: str
    signal: str | None = None
    timed_out: bool = False
    truncated: bool = False
    stdout_truncated: bool = False
    stderr_truncated: bool = False


class ExecResult(NamedTuple):
    """A command that has ended. ``exit_code`` is None when a signal ended it; ``outcome`` says what did."""

    stdout_bytes: bytes
    stderr_bytes: bytes
    exit_code: int | None
    outcome: str
    signal: str | None
    duration_ms: int
    timed_out: bool
    truncated: bool

    @property
    def stdout(self) -> str:
        """As text; what is not UTF-8 becomes U+FFFD."""
        return self.stdout_bytes.decode("utf-8", "replace")

    @property
    def stderr(self) -> str:
        """As text; what is not UTF-8 becomes U+FFFD."""
        return self.stderr_bytes.decode("utf-8", "replace")

    @property
    def ok(self) -> bool:
        """It exited with 0."""
        return self.exit_code == 0

    def check(self) -> ExecResult:
        """Itself. Raises ``CommandFailed`` when it did not exit with 0."""
        if not self.ok:
            said = (self.stderr or self.stdout).strip()[-_SHOWN:]
            raise CommandFailed(f"{ending(self)}{': ' if said else ''}{said}", self)
        return self


def result(answer: ExecAnswer) -> ExecResult:
    """The answer, decoded."""
    return ExecResult(
        base64.b64decode(answer.stdout),
        base64.b64decode(answer.stderr),
        answer.exit_code,
        answer.outcome,
        answer.signal,
        answer.duration_ms,
        answer.timed_out,
        answer.truncated,
    )


class ProcessInfo(Answered, frozen=True):
    """A process as it was when nsbox was asked. The bytes of its output from ``log_start`` to ``log_end`` are
    kept."""

    id: str
    status: str
    command: str | list[str]
    cwd: str
    started_at: datetime
    kind: str = "process"
    pid: int | None = None
    log_start: int = 0
    log_end: int = 0
    stdin: str = "closed"
    ready: bool | None = None
    exit_code: int | None = None
    signal: str | None = None
    outcome: str | None = None
    timed_out: bool = False
    duration_ms: int | None = None
    ended_at: datetime | None = None
    cpu_ms: int | None = None
    peak_memory_kb: int | None = None

    @property
    def running(self) -> bool:
        """Whether it had not ended."""
        return self.status == "running"

    @property
    def ok(self) -> bool:
        """It exited with 0."""
        return self.exit_code == 0


def ending(ended: ExecResult | ProcessInfo) -> str:
    """How a command ended, for people."""
    if ended.exit_code is not None:
        return f"the command exited with {ended.exit_code}"
    if ended.outcome == "signaled":
        return f"the command was ended by SIG{ended.signal}"
    return f"the command did not end well: {ended.outcome}"


class Started(NamedTuple):
    """The first event: the command runs, or ran already."""

    process: ProcessInfo


class Output(NamedTuple):
    """Bytes of one stream, ``stdout`` or ``stderr``; ``offset`` counts both together. ``text`` is what can be
    decoded so far: a character that comes in two pieces is in the second one."""

    stream: str
    offset: int
    data: bytes
    text: str


class Dropped(NamedTuple):
    """The bytes from ``offset`` to ``until`` are kept no longer: nobody was there to take them in time."""

    offset: int
    until: int


class Exited(NamedTuple):
    """The last event: the command has ended."""

    process: ProcessInfo


CommandEvent = Started | Output | Dropped | Exited


class Refused(NamedTuple):
    """Something that was written or asked for on a connection could not be done; the connection goes on."""

    error: ApiError


class Reattached(NamedTuple):
    """The connection was lost, and is there again. The last ``unsure`` bytes that were written to stdin
    may have arrived or not; of the output nothing is missing."""

    unsure: int


AttachEvent = CommandEvent | Refused | Reattached


class LogChunk(Answered, frozen=True):
    """A piece of output. ``data`` as the ``encoding`` of the page says."""

    stream: str
    offset: int
    data: str

    def bytes_of(self, encoding: str) -> bytes:
        """The bytes themselves."""
        return base64.b64decode(self.data) if encoding == "base64" else self.data.encode()


class LogPage(Answered, frozen=True):
    """Output that was there; the next page begins at ``next_offset``."""

    offset: int
    next_offset: int
    process: ProcessInfo
    chunks: tuple[LogChunk, ...] = ()
    dropped: int = 0
    encoding: str = "utf8"

    @property
    def text(self) -> str:
        """Both streams as they came."""
        return self.data.decode("utf-8", "replace")

    @property
    def data(self) -> bytes:
        """Both streams as they came."""
        return b"".join(one.bytes_of(self.encoding) for one in self.chunks)


class StdinWritten(Answered, frozen=True):
    """So many bytes were taken."""

    written: int
    closed: bool = False


class Killed(Answered, frozen=True):
    """So many processes were ended."""

    killed: int


class Ticket(Answered, frozen=True):
    """Lets a page in a browser attach to a process, once."""

    ticket: str
    protocols: tuple[str, ...]
    expires_in_s: int


def read_process(data: Any) -> ProcessInfo:
    """A process out of an event."""
    return msgspec.convert(data, ProcessInfo)
