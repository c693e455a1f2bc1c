"""A layer's blob becomes the folder ``layers/NAME``: api's side. ``unpacking`` does it, below keeper."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Protocol

import msgspec

from nsbox.model.sandbox import new_command_id
from nsbox.oci.unpacking.refusal import Reason

_REPORT_BYTES = 65_536


class Compression(StrEnum):
    """How a blob is packed."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


class Caps(msgspec.Struct, frozen=True, kw_only=True):
    """What one layer may cost. Real ones stay well below: the largest that people use (CUDA with Conda) have
    some 300,000 entries and 10 GB."""

    #: Of the archive uncompressed, and of its files, holes and all.
    max_bytes: int = 16 << 30
    max_entries: int = 600_000
    #: Of uncompressed bytes to compressed ones. gzip reaches 1,000 with zeros, and programs 2 to 5.
    max_ratio: int = 200
    #: Folders in a path.
    max_depth: int = 128
    seconds: float = 600.0


class LayerReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was made. ``bytes`` is the size of all files; ``peak_kib`` the unpacker's own memory."""

    diff_id: str
    entries: int
    bytes: int
    devices_skipped: int
    xattrs_dropped: int
    peak_kib: int
    seconds: float


class LayerRefused(Exception):
    """A blob was not unpacked, and nothing of it is left. What was spent on it is told like a report's."""

    def __init__(self, reason: Reason, detail: str, peak_kib: int = 0, seconds: float = 0.0) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail
        self.peak_kib, self.seconds = peak_kib, seconds


class TaskRunner(Protocol):
    """``nsbox.host.keeper.KeeperLink``, as far as it matters here."""

    async def task(self, key: str, name: str, argument: str, descriptors: Sequence[int]) -> int:
        """Run a task in the outer namespace; its status as of waitpid."""
        ...


async def unpack(
    keeper: TaskRunner,
    blob: int,
    name: str,
    *,
    compression: Compression,
    diff_id: str | None,
    caps: Caps | None = None,
) -> LayerReport:
    """Make ``layers/NAME`` of the blob behind the descriptor ``blob``, from where that stands.

    When this returns, the folder is complete, on disk, owned by sandbox ids, with whiteouts in overlayfs's
    form, and its digest is ``diff_id`` if one was given. Raises ``LayerRefused``, and nothing of it is left
    then; EXISTS and BUSY are about another's work, which is not touched. Cancelled, the worker gives up by
    itself soon after.
    """
    limits = msgspec.to_builtins(caps or Caps())
    order = msgspec.json.encode({"compression": compression, "diff_id": diff_id, "limits": limits})
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            ours.send(order)
            status = await _run(keeper, name, (blob, theirs.fileno(), 2))
        ours.setblocking(False)
        answer = b""
        with contextlib.suppress(BlockingIOError):
            answer = ours.recv(_REPORT_BYTES)
    return _understood(answer, status)


async def _run(keeper: TaskRunner, name: str, descriptors: Sequence[int]) -> int:
    return await keeper.task(new_command_id(), "unpack", name, descriptors)


def _understood(answer: bytes, status: int) -> LayerReport:
    try:
        told: dict[str, Any] = msgspec.json.decode(answer, type=dict)
        if "reason" in told:
            cost = int(told.get("peak_kib", 0)), float(told.get("seconds", 0))
            raise LayerRefused(Reason(told["reason"]), str(told["detail"]), *cost)
        return msgspec.convert(told, LayerReport)
    except (msgspec.MsgspecError, ValueError, KeyError):
        detail = f"the unpacking worker ended with status {status} and said nothing of use"
        raise LayerRefused(Reason.INTERNAL, detail) from None


__all__ = ["Caps", "Compression", "LayerRefused", "LayerReport", "Reason", "TaskRunner", "unpack"]
