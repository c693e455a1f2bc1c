"""api's side: orders for ``take``, ``diff`` and ``export``, and what they answer."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from enum import StrEnum
from typing import Any, TypeAlias, TypeVar

import msgspec
import trio

from nsbox.model.sandbox import new_command_id
from nsbox.model.snapshot import Change, Cut
from nsbox.oci.layers import TaskRunner
from nsbox.oci.unpacking.refusal import Reason

_REPORT = 1 << 20
_PIECE = 64 * 1024
T = TypeVar("T")
#: Hears whether a layer is on disk.
Durable: TypeAlias = Callable[[bool], Awaitable[None]]


class TakeOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Keep what ``sandbox`` has written. ``sync``: it is to outlive a power cut. ``reserve``: so many bytes
    of the disk stay free."""

    sandbox: str
    sync: bool
    seconds: float
    max_bytes: int
    max_entries: int
    reserve: int


class DiffOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What differs between the layers ``lower`` (topmost first) and what lies over them: what ``sandbox`` has
    written or, without one, the layer ``upper``. ``after``: the parts of the last path that is known."""

    sandbox: str = ""
    upper: str = ""
    lower: tuple[str, ...]
    after: str = ""  # base64, the URL's
    limit: int
    seconds: float


class Form(StrEnum):
    """What is written of layers."""

    LAYOUT = "layout"  # an OCI layout
    FILES = "files"  # all in one, as a sandbox sees them
    SIZES = "sizes"  # JSON: what each will be called when it is packed, bottom first
    LAYER = "layer"  # the only one, packed


class ExportOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Write ``layers`` (topmost first). ``config`` is the image's without its layers."""

    form: Form
    layers: tuple[str, ...]
    config: dict[str, Any] = {}
    annotations: dict[str, str] = {}
    seconds: float


class Packed(msgspec.Struct, frozen=True, array_like=True):
    """A layer as it will travel. ``diff_id`` is of the plain archive."""

    diff_id: str
    digest: str
    size: int


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """A page of differences. ``after``: what to ask for the next one with; empty: there is none."""

    changes: tuple[Change, ...]
    after: str = ""


class TaskRefused(Exception):
    """A task was not done, and has left nothing."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class Taking:
    """A worker that keeps what a sandbox has written as ``layers/LAYER``. It gets ready while the sandbox is
    made to stand, and begins with the order. As a context: what is not done at its end is given up.

    ``durable`` is called, in ``nursery``, when the layer is on disk or could not be brought there.
    """

    def __init__(
        self, keeper: TaskRunner, nursery: trio.Nursery, layer: str, durable: Durable | None = None
    ) -> None:
        self._keeper, self._layer, self._durable = keeper, layer, durable
        self._done = False
        self._over = trio.Event()
        ours, self._theirs = socket.socketpair()
        self._ours = trio.socket.from_stdlib_socket(ours)
        nursery.start_soon(self._run)

    def __enter__(self) -> Taking:
        return self

    def __exit__(self, *unused: object) -> None:
        self._ours.close()
        self._over.set()

    async def _run(self) -> None:
        with self._theirs as end:  # the last one but the worker's: reading ends when that has ended
            status = await self._keeper.task(new_command_id(), "take", self._layer, (end.fileno(), 2, 2))
        # A quick disk: the worker's end may be told before its answer has been taken up.
        await self._over.wait()
        if self._done and self._durable is not None:
            await self._durable(status == 0)

    async def make(self, order: TakeOrder) -> Cut:
        """When this returns, the layer has its name. Raises ``TaskRefused``, and nothing of it is left
        then."""
        try:
            await self._ours.send(msgspec.json.encode(order))
            said = await self._ours.recv(_REPORT)
        except OSError as error:
            raise TaskRefused(Reason.INTERNAL, f"the worker has ended: {error}") from error
        cut = _understood(said, Cut)
        self._done = True
        return cut


async def diff(keeper: TaskRunner, layer: str, order: DiffOrder) -> Changes:
    """Raises ``TaskRefused``. ``layer`` is any of those that are looked at."""
    ours, theirs = socket.socketpair()
    # The order has up to 127 layers' names; the answer must not wait for us to read it.
    report = os.memfd_create("nsbox-diff", os.MFD_CLOEXEC)
    try:
        with ours, theirs:
            ours.sendall(msgspec.json.encode(order) + b"\n")
            await keeper.task(new_command_id(), "diff", layer, (theirs.fileno(), report, 2))
        size = os.fstat(report).st_size
        return _understood(os.pread(report, size, 0), Changes)
    finally:
        os.close(report)


@asynccontextmanager
async def export(keeper: TaskRunner, order: ExportOrder) -> AsyncGenerator[AsyncGenerator[bytes, None], None]:
    """The bytes of an archive, as a stream that is over when it has been read to its end. It raises
    ``TaskRefused`` in the middle where it cannot go on."""
    ours, theirs = socket.socketpair()
    reader, writer = os.pipe2(os.O_CLOEXEC)
    stream = trio.lowlevel.FdStream(reader)

    async def run() -> None:
        with theirs:
            try:
                await keeper.task(new_command_id(), "export", order.layers[0], (theirs.fileno(), writer, 2))
            finally:
                os.close(writer)

    async def pieces() -> AsyncGenerator[bytes, None]:
        while piece := await stream.receive_some(_PIECE):
            yield piece
        said = b""
        with contextlib.suppress(BlockingIOError):
            said = ours.recv(_REPORT, socket.MSG_DONTWAIT)
        _understood(said, dict)

    ours.sendall(msgspec.json.encode(order) + b"\n")
    with ours:
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(run)
            try:
                yield pieces()
            finally:
                nursery.cancel_scope.cancel()


async def sizes(keeper: TaskRunner, layers: tuple[str, ...], seconds: float) -> dict[str, Packed]:
    """What each of ``layers`` will be called, by its name here. Raises ``TaskRefused``."""
    order = ExportOrder(form=Form.SIZES, layers=layers, seconds=seconds)
    said, refused = bytearray(), None
    async with export(keeper, order) as pieces, aclosing(pieces):
        try:
            async for piece in pieces:
                said += piece
        except TaskRefused as error:  # out of the nursery of ``export`` without a group around it
            refused = error
    if refused is not None:
        raise refused
    try:
        rows = msgspec.json.decode(bytes(said), type=list[Packed])
        return dict(zip(reversed(layers), rows, strict=True))
    except (msgspec.MsgspecError, ValueError):
        raise TaskRefused(Reason.INTERNAL, "the worker said nothing of use") from None


def _understood(answer: bytes, kind: type[T]) -> T:
    try:
        told = msgspec.json.decode(answer, type=dict)
        if "reason" in told:
            raise TaskRefused(Reason(told["reason"]), str(told["detail"]))
        return msgspec.convert(told, kind)
    except (msgspec.MsgspecError, ValueError, KeyError):
        raise TaskRefused(Reason.INTERNAL, "the worker said nothing of use") from None
