"""A client of nsbox's API: ``Client`` for programs with threads, ``AsyncClient`` for trio and asyncio.

    from nsbox.client import Client

    with Client("http://127.0.0.1:8080", key) as client, client.create() as sandbox:
        print(sandbox.exec("echo hello").stdout)

It needs msgspec, and httpx2 for ``AsyncClient``; nothing of the daemon.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nsbox.client.blocking.client import Client
from nsbox.client.blocking.processes import Process
from nsbox.client.blocking.sandbox import Sandbox
from nsbox.client.errors import (
    ApiError,
    CommandFailed,
    Conflict,
    ConnectionFailed,
    ConnectionLost,
    Forbidden,
    ImageNotFound,
    InvalidRequest,
    NotAuthenticated,
    NotFound,
    NsboxError,
    ProcessNotFound,
    QuotaExhausted,
    SandboxFileNotFound,
    SandboxGone,
    SandboxNotFound,
    ServerFailed,
    SnapshotNotFound,
    StdinFull,
    TimedOut,
    TooMany,
    UnexpectedAnswer,
    Unreachable,
    Untrusted,
    WrongState,
)
from nsbox.client.retries import Retries
from nsbox.client.types import (
    AutoPause,
    Dropped,
    ExecResult,
    Exited,
    Output,
    ProcessInfo,
    SandboxInfo,
    Started,
)

if TYPE_CHECKING:
    from nsbox.client.asynchronous.client import AsyncClient
    from nsbox.client.asynchronous.processes import AsyncProcess
    from nsbox.client.asynchronous.sandbox import AsyncSandbox

__all__ = [
    "ApiError",
    "AsyncClient",
    "AsyncProcess",
    "AsyncSandbox",
    "AutoPause",
    "Client",
    "CommandFailed",
    "Conflict",
    "ConnectionFailed",
    "ConnectionLost",
    "Dropped",
    "ExecResult",
    "Exited",
    "Forbidden",
    "ImageNotFound",
    "InvalidRequest",
    "NotAuthenticated",
    "NotFound",
    "NsboxError",
    "Output",
    "Process",
    "ProcessInfo",
    "ProcessNotFound",
    "QuotaExhausted",
    "Retries",
    "Sandbox",
    "SandboxFileNotFound",
    "SandboxGone",
    "SandboxInfo",
    "SandboxNotFound",
    "ServerFailed",
    "SnapshotNotFound",
    "Started",
    "StdinFull",
    "TimedOut",
    "TooMany",
    "UnexpectedAnswer",
    "Unreachable",
    "Untrusted",
    "WrongState",
]

_ASYNCHRONOUS = {"AsyncClient": "client", "AsyncProcess": "processes", "AsyncSandbox": "sandbox"}


def __getattr__(name: str) -> object:
    """httpx2 and what it needs are imported only for those who use it: it takes longer than all the rest."""
    module = _ASYNCHRONOUS.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"nsbox.client.asynchronous.{module}"), name)
