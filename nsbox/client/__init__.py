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
    Reattached,
    Refused,
    SandboxInfo,
    Started,
)

if TYPE_CHECKING:
    from nsbox.client.asynchronous.attached import AsyncAttached
    from nsbox.client.asynchronous.client import AsyncClient
    from nsbox.client.asynchronous.processes import AsyncProcess
    from nsbox.client.asynchronous.sandbox import AsyncSandbox
    from nsbox.client.blocking.attached import Attached

__all__ = [
    "ApiError",
    "AsyncAttached",
    "AsyncClient",
    "AsyncProcess",
    "AsyncSandbox",
    "Attached",
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
    "Reattached",
    "Refused",
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

_LATER = {
    "AsyncAttached": "asynchronous.attached",
    "AsyncClient": "asynchronous.client",
    "AsyncProcess": "asynchronous.processes",
    "AsyncSandbox": "asynchronous.sandbox",
    "Attached": "blocking.attached",
}


def __getattr__(name: str) -> object:
    """httpx2 and what it needs are imported only for those who use it: it takes longer than all the rest.
    So is wsproto, for those who attach."""
    module = _LATER.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"nsbox.client.{module}"), name)
