"""What is kept of a command besides its output. Pure data, no I/O."""

from __future__ import annotations

import re
from enum import StrEnum

import msgspec

from nsbox.model.request import Request as Request  # noqa: PLC0414 - part of a note
from nsbox.model.sandbox import Encoding, Outcome

#: What ``new_command_id`` makes. What a sandbox says is a key is one only if it looks like one.
KEY = re.compile(r"cmd_[0-9a-f]{20}")


class Kind(StrEnum):
    """How a command was asked for."""

    EXEC = "exec"  # somebody waits for its end
    STREAM = "stream"  # somebody follows its output
    PROCESS = "process"  # in the background
    TERMINAL = "terminal"  # the same, on a terminal


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What api writes beside a command's log before it is started: all that the next api needs of it.

    ``begun`` is in seconds of CLOCK_BOOTTIME, ``stood`` how long the sandbox had been paused by then, in all.
    ``head``: keep so many bytes of each output, the first ones; None: the last ones of both.
    """

    kind: Kind
    command: str | list[str]
    cwd: str
    begun: float
    started_at: float
    stood: float = 0.0
    timeout_ms: int | None = None
    head: int | None = None
    encoding: Encoding = Encoding.UTF8
    request: Request | None = None
    input_open: bool = False


class End(msgspec.Struct, frozen=True, kw_only=True):
    """How a command ended. ``log_end``: where its log ended then; processes that it left may write more."""

    outcome: Outcome
    pid: int
    duration_ms: int
    ended_at: float
    log_end: int
    exit_code: int | None = None
    signal: str | None = None
    cpu_ms: int | None = None
    peak_kb: int | None = None
