"""Records of the domain: what a client asks for and what nsbox keeps of it. Pure data, no I/O."""

from __future__ import annotations

import base64
import secrets
from enum import StrEnum
from typing import Protocol

import msgspec

from nsbox.model.image import PullPolicy
from nsbox.model.lifecycle import EndReason, State
from nsbox.model.network import NetworkPolicy
from nsbox.model.ports import Port
from nsbox.model.request import Request
from nsbox.model.standby import Standby
from nsbox.model.template import Template as Template  # noqa: PLC0414 - it has long been found here

ID_PREFIX = "sb_"
_ID_BYTES = 20  # 160 random bits; base32 without padding gives 32 characters


def new_sandbox_id() -> str:
    """``sb_`` and 32 characters of a-z2-7: 160 random bits, fit for a DNS label of a preview URL."""
    return ID_PREFIX + base64.b32encode(secrets.token_bytes(_ID_BYTES)).decode().lower()


def new_command_id() -> str:
    """An id for one command. Unguessable, so that two api processes never collide."""
    return "cmd_" + secrets.token_hex(10)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a sandbox may use. Units: processors, MiB, MiB, processes."""

    vcpus: int
    memory_mb: int
    storage_mb: int
    pids: int


class Backend(StrEnum):
    """What holds a sandbox's ``storageMb``."""

    QUOTA = "quota"  # a project quota of the file system: hard, bytes and inodes
    TMPFS = "tmpfs"  # memory of the sandbox: hard, bytes and inodes
    WATCHED = "watched"  # measured, and what writes is ended: passed by what is written between two looks


class Storage(msgspec.Struct, frozen=True):
    """What a sandbox may really write, which is not to the byte what was asked for."""

    backend: Backend
    size: int  # bytes
    inodes: int


class SandboxSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A validated wish for a sandbox: defaults filled in, bounds checked."""

    limits: Limits
    timeout_ms: int
    template: str
    env: dict[str, str] = {}
    pull: PullPolicy | None = None
    request: Request | None = None
    network: NetworkPolicy = NetworkPolicy()
    base: Template | None = None  # what it is made from, where that has no name that all may use
    origin: str = ""  # the snapshot that is, or the sandbox that it is a fork of
    standby: Standby = Standby()
    key: str = ""  # the id of the key that asked


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    """The record of one sandbox. Times: ``*_at`` are wall-clock seconds since the epoch, for display only;
    ``deadline`` is in seconds of CLOCK_BOOTTIME of the boot ``boot_id``. ``base`` is what it was made from,
    as it was then: an image may be pulled anew or removed while its sandboxes live. ``remaining_s`` is what
    is left of its time while it is paused: the deadline means nothing then. ``stood_s`` is how long it has
    been paused in all, a pause that lasts not counted; that one began at ``paused_at`` (CLOCK_BOOTTIME).
    ``request`` is the one that asked for it, if that had an Idempotency-Key, and ``made`` that it has been
    running. ``origin`` is the snapshot that it was made from, or the sandbox that it is a fork of, ``key``
    the id of the key that it was made with: what it runs is that key's."""

    id: str
    owner: str
    key: str = ""
    state: State
    limits: Limits
    timeout_ms: int
    template: str
    layers: tuple[str, ...]
    base: Template | None = None
    origin: str = ""
    env: dict[str, str]
    region: str
    created_at: float
    expires_at: float
    deadline: float
    boot_id: str
    enforced: tuple[str, ...] = ()
    storage: Storage | None = None
    storage_full: bool = False  # only where it is watched: it has written more than it may
    cgroup: str = ""  # its path on the host; empty where there is none
    oom_kills: int = 0  # processes that the kernel has ended for lack of memory
    last_oom_at: float | None = None  # when that was last noticed
    ports: tuple[Port, ...] = ()
    remaining_s: float | None = None
    stood_s: float = 0.0
    paused_at: float | None = None
    request: Request | None = None
    made: bool = False
    network: NetworkPolicy = NetworkPolicy()
    standby: Standby = Standby()
    ended_at: float | None = None
    end_reason: EndReason | None = None


class Encoding(StrEnum):
    """How bytes are put into JSON."""

    UTF8 = "utf8"  # bytes that are not UTF-8 become U+FFFD
    BASE64 = "base64"


class TerminalSize(msgspec.Struct, frozen=True):
    """In characters."""

    rows: int
    columns: int

    @property
    def packed(self) -> int:
        """As init takes it."""
        return self.rows << 16 | self.columns


class Source(Protocol):
    """Bytes that are too many to be held at once. They are read once, in order."""

    async def next(self) -> bytes:
        """Some more; none at the end. Raises ``Problem`` where they are gone."""
        ...

    def close(self) -> None:
        """Idempotent."""
        ...


class StoredInput(Source, Protocol):
    """Input that waits outside of memory. It ends with the request that brought it, unless a command took it:
    then the command closes it."""

    def __len__(self) -> int: ...

    def take(self) -> None:
        """From now on it is the command's."""
        ...


class CommandSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A validated wish for a command. ``argv`` is what is executed; ``command`` what the client wrote."""

    argv: tuple[str, ...]
    command: str | list[str]
    cwd: str | None = None
    env: dict[str, str] = {}
    user: str | None = None
    stdin: bytes | StoredInput = b""
    timeout_ms: int | None = None
    encoding: Encoding = Encoding.UTF8
    stdin_open: bool = False
    terminal: TerminalSize | None = None


class Outcome(StrEnum):
    """How a command ended. A result never has an exit code that ``waitpid`` did not report."""

    EXITED = "exited"
    SIGNALED = "signaled"
    TIMED_OUT = "timedOut"
    OOM = "oom"
    STORAGE_FULL = "storageFull"  # ended for having passed a storage limit that is watched
    SANDBOX_GONE = "sandboxGone"


class Output(msgspec.Struct, frozen=True):
    """What a command wrote to one stream, and whether the end of it was cut off. Where that is much, ``data``
    is empty, and ``source`` has it."""

    data: bytes = b""
    truncated: bool = False
    source: Source | None = None


class CommandResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a command. ``exit_code`` only when it exited, ``signal`` (a name such as ``KILL``) only
    when a signal ended it."""

    outcome: Outcome
    stdout: Output
    stderr: Output
    duration_ms: int
    exit_code: int | None = None
    signal: str | None = None


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """A command that is known by its id. ``pid`` is the one inside the sandbox. Its log keeps the bytes from
    ``log_start`` to ``log_end``. ``cpu_ms`` and ``memory`` (bytes) of one that runs are with all it has
    started, where that was asked for. The rest is known once it has ended; ``cpu_ms`` and ``peak_kb`` with
    what it started and waited for."""

    id: str
    pid: int
    kind: str
    command: str | list[str]
    cwd: str
    started_at: float
    log_start: int = 0
    log_end: int = 0
    stdin_open: bool = False
    running: bool = True
    outcome: Outcome | None = None
    exit_code: int | None = None
    signal: str | None = None
    duration_ms: int | None = None
    ended_at: float | None = None
    cpu_ms: int | None = None
    memory: int | None = None
    peak_kb: int | None = None


class FileType(StrEnum):
    """Kinds of directory entries."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    FIFO = "fifo"
    SOCKET = "socket"
    DEVICE = "device"
    UNKNOWN = "unknown"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a listing. ``name`` is relative to the directory listed, ``mode`` the permission bits,
    ``mtime`` seconds since the epoch, ``uid`` and ``gid`` as seen inside."""

    name: str
    path: str
    type: FileType
    size: int
    mode: int
    uid: int
    gid: int
    mtime: float
    target: str | None = None


class Listing(msgspec.Struct, frozen=True):
    """Entries of a directory; ``truncated`` when there were more than the bound. Names and paths that are
    not UTF-8 carry their bytes as lone surrogates (``surrogateescape``)."""

    entries: list[Entry]
    truncated: bool = False
