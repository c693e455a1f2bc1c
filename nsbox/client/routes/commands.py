"""``/exec`` and ``/processes``."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

from nsbox.client.call import EVENTS, OCTETS, Call, Request, body, milliseconds, part, query, reader, strings
from nsbox.client.call import variables as variables_of
from nsbox.client.retries import new_key
from nsbox.client.types.command import (
    ExecAnswer,
    ExecResult,
    Killed,
    LogPage,
    ProcessInfo,
    StdinWritten,
    Ticket,
    result,
)

Command = str | Iterable[str]
#: The sandbox's own login shell would be in /etc/passwd; what every image has is sh.
SHELL = "if command -v bash >/dev/null; then exec bash; else exec sh; fi"
#: The daemon's own bound of a wait, and of one that is not said.
LONGEST_WAIT, USUAL_WAIT = 300.0, 30.0
#: A command without a time of its own has the daemon's, which we do not know: a day at most.
_LONGEST = 86_400.0
_ANSWER = reader(ExecAnswer)
written = reader(StdinWritten)
#: Twice in it comes at least a heartbeat of the daemon's.
_SILENCE = 30.0
#: What the daemon takes at a time.
STDIN_BYTES = 1 << 20


def at(here: str, key: str) -> str:
    """Where a process is."""
    return f"{here}/processes/{part(key)}"


def run(
    here: str,
    command: Command,
    *,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    user: str | None = None,
    stdin: str | bytes | None = None,
    timeout: float | None = None,
    idempotency_key: str | None = None,
) -> Call[ExecResult]:
    """Run a command and wait for its end. A string goes to the shell, a list is executed as it is. Sent again
    after a lost answer, it does not run twice."""
    return Call(
        "POST",
        f"{here}/exec",
        lambda data: result(_ANSWER(data)),
        body=_wish(command, cwd, env, user, stdin, timeout),
        keyed=True,
        key=idempotency_key,
        patience=_LONGEST if timeout is None else timeout,
    )


def stream(
    here: str,
    command: Command,
    *,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    user: str | None = None,
    stdin: str | bytes | None = None,
    timeout: float | None = None,
    idempotency_key: str | None = None,
) -> Request:
    """Run a command; its output comes as events."""
    headers = (
        ("Accept", EVENTS),
        ("Content-Type", "application/json"),
        ("Idempotency-Key", idempotency_key or new_key()),
    )
    wish = _wish(command, cwd, env, user, stdin, timeout)
    return Request("POST", f"{here}/exec?stream=true", headers, wish, _SILENCE)


def _wish(
    command: Command,
    cwd: str | None,
    env: Mapping[str, str] | None,
    user: str | None,
    stdin: str | bytes | None,
    timeout: float | None,
) -> bytes:
    given = stdin.encode() if isinstance(stdin, str) else stdin
    return body(
        command=strings(command),
        cwd=cwd,
        env=variables_of(env),
        user=user,
        stdin_base64=base64.b64encode(given).decode() if given else None,
        timeout_ms=milliseconds(timeout),
        encoding="base64",  # exact, whatever a command writes
    )


def follow(process: str) -> Request:
    """The output of a process as events, as it comes."""
    target = f"{process}/logs?follow=true&encoding=base64"
    return Request("GET", target, (("Accept", EVENTS),), None, _SILENCE)


def start(
    here: str,
    command: Command,
    *,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    user: str | None = None,
    stdin_open: bool = False,
    terminal: tuple[int, int] | None = None,
    ready_port: int | None = None,
    ready_line: str | None = None,
    ready_timeout: float | None = None,
    timeout: float | None = None,
    idempotency_key: str | None = None,
) -> Call[ProcessInfo]:
    """Start a command in the background. ``terminal``: rows and columns of one of its own. ``ready_port`` or
    ``ready_line``: answer when something listens there, or that text was written; ``ready`` says whether.
    Without ``timeout`` it runs for as long as it wants."""
    ready: dict[str, Any] | None = None
    if ready_port is not None or ready_line is not None:
        parts = {"port": ready_port, "line": ready_line, "timeoutMs": milliseconds(ready_timeout)}
        ready = {name: value for name, value in parts.items() if value is not None}
    wish = body(
        command=strings(command),
        cwd=cwd,
        env=variables_of(env),
        user=user,
        stdin="open" if stdin_open else None,
        terminal=None if terminal is None else {"rows": terminal[0], "columns": terminal[1]},
        ready_when=ready,
        timeout_ms=milliseconds(timeout),
    )
    path, patience = f"{here}/processes", USUAL_WAIT if ready_timeout is None else ready_timeout
    return Call(
        "POST", path, reader(ProcessInfo), body=wish, keyed=True, key=idempotency_key, patience=patience
    )


def get_all(here: str, *, all: bool = False) -> Call[list[ProcessInfo]]:
    """Background processes and streams that run; with ``all`` the commands, and the last that ended, too."""
    asked = query(all=all)
    return Call("GET", f"{here}/processes", reader(list[ProcessInfo]), query=asked, safe=True)


def kill_all(here: str) -> Call[Killed]:
    """End every process of the sandbox but its process 1."""
    return Call("DELETE", f"{here}/processes", reader(Killed), safe=True)


def get(process: str) -> Call[ProcessInfo]:
    """How it is now."""
    return Call("GET", process, reader(ProcessInfo), safe=True)


def find(here: str, process_id: str) -> Call[ProcessInfo]:
    """One of them, also when it has ended."""
    return get(at(here, process_id))


def wait_once(process: str, timeout: float = USUAL_WAIT) -> Call[ProcessInfo]:
    """How it is when it has ended, or after so many seconds, up to 300."""
    asked = query(timeoutMs=milliseconds(min(timeout, LONGEST_WAIT)))
    return Call("GET", f"{process}/wait", reader(ProcessInfo), query=asked, safe=True, patience=timeout)


def signal(process: str, signal: str | int) -> Call[ProcessInfo]:
    """Send ``TERM``, ``INT``, 9, … to it and its process group, as a terminal's Ctrl-C would."""
    return Call("POST", f"{process}/signal", reader(ProcessInfo), body=body(signal=signal))


def kill(process: str) -> Call[ProcessInfo | None]:
    """End it and all it started, and forget it and its output. The answer is how it ended, or None when that
    was lost on the way."""
    answer = reader(ProcessInfo)
    return Call("DELETE", process, answer, safe=True, again=lambda: None)


def logs(process: str, *, offset: int = 0, limit: int | None = None) -> Call[LogPage]:
    """The output that is there, from ``offset`` on."""
    asked = query(offset=offset, limit=limit, encoding="base64")
    return Call("GET", f"{process}/logs", reader(LogPage), query=asked, safe=True)


def ticket(process: str, *, origin: str) -> Call[Ticket]:
    """Let a page of this origin attach to it, once, with a WebSocket and without a key."""
    return Call("POST", f"{process}/ticket", reader(Ticket), body=body(origin=origin))


def stdin(process: str, data: bytes, *, close: bool, timeout: float | None) -> Request:
    """Up to ``STDIN_BYTES`` for its stdin."""
    asked = query(close=close, timeoutMs=milliseconds(timeout))
    headers = (("Accept", "application/json"), ("Content-Type", OCTETS))
    target = f"{process}/stdin?{asked}" if asked else f"{process}/stdin"
    return Request("POST", target, headers, data, 60.0 + (timeout or 0))
