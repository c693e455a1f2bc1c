"""Files of a sandbox, by way of its file agent: what is opened there is streamed here."""

import json
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial

import trio

from nsbox.host.agents import Agents, Conversation, plain_file
from nsbox.host.box import Refusal, Unresponsive
from nsbox.host.closing import close_all
from nsbox.host.storage import Reserve
from nsbox.model.errors import Code, Problem
from nsbox.model.lifecycle import Action
from nsbox.model.sandbox import Entry, FileType, Listing
from nsbox.service import refusals
from nsbox.service.registry import Registry
from nsbox.settings import Settings
from nsbox.wire.messages import (
    Abort,
    Commit,
    Done,
    Entries,
    Message,
    Opened,
    Put,
    Read,
    Remove,
    Scan,
    Write,
    Writing,
)  # fmt: skip

#: Up to here a file's contents travel in the message itself, in bytes: one round trip.
_INLINE = 128 * 1024
#: Reads up to here are done at once, since a worker thread costs more than they do.
_DIRECT = 64 * 1024

#: What a listing may take in memory here, in bytes of rows as they come. Names can be long, and whoever
#: tampers with an agent may say as much in each row as fits a packet.
_LONGEST_LISTING = 32 << 20

#: How much of an upload is taken in between two looks at the room there is.
_CHECK_EVERY = 4 << 20

_TYPES = {
    stat.S_IFREG: FileType.FILE,
    stat.S_IFDIR: FileType.DIRECTORY,
    stat.S_IFLNK: FileType.SYMLINK,
    stat.S_IFIFO: FileType.FIFO,
    stat.S_IFSOCK: FileType.SOCKET,
    stat.S_IFCHR: FileType.DEVICE,
    stat.S_IFBLK: FileType.DEVICE,
}


class Files:
    """Files of all sandboxes. Paths are bytes, as the kernel has them."""

    def __init__(self, registry: Registry, settings: Settings, reserve: Reserve) -> None:
        self._registry, self._settings, self._reserve = registry, settings, reserve

    async def _agents(self, owner: str, sandbox_id: str) -> Agents:
        return (await self._registry.usable(owner, sandbox_id, Action.FILES))[2]

    def _check_room(self, sandbox_id: str) -> None:
        """Raises ``Problem`` where the host's disk or the sandbox has no room for an upload."""
        self._reserve.check()
        self._check_full(sandbox_id)

    def _check_full(self, sandbox_id: str) -> None:
        """Where storage is watched: what api writes does not end with the sandbox's commands."""
        live = self._registry.find(sandbox_id)
        if live is not None and live.record.storage_full:
            raise Problem(
                Code.NO_SPACE, "the sandbox has used all of its storage", remedy="remove some of its files"
            )

    @asynccontextmanager
    async def open(self, owner: str, sandbox_id: str, path: bytes) -> AsyncIterator["OpenFile"]:
        """A regular file, open for reading while the block lasts. The agent is free again at once."""
        agents = await self._agents(owner, sandbox_id)
        with _translated(path):
            async with agents.use() as agent:
                answer, descriptors = await agent.ask(Read(os.fsdecode(path)))
            if not isinstance(answer, Opened):
                close_all(descriptors)
                raise Unresponsive("the sandbox answered something else")
            descriptor = plain_file(descriptors)
        try:
            yield OpenFile(descriptor)
        finally:
            os.close(descriptor)

    async def write(self, owner: str, sandbox_id: str, path: bytes, data: bytes, mode: int | None) -> int:
        """Replace a file atomically; the number of bytes."""
        if len(data) > _INLINE:
            async with self.upload(owner, sandbox_id, path, mode) as upload:
                await upload.write(data)
            return len(data)
        agents = await self._agents(owner, sandbox_id)
        self._check_full(sandbox_id)
        with _translated(path):
            async with agents.use() as agent:
                await _done(agent, Put(os.fsdecode(path), -1 if mode is None else mode, data))
        return len(data)

    @asynccontextmanager
    async def upload(
        self, owner: str, sandbox_id: str, path: bytes, mode: int | None
    ) -> AsyncIterator["Upload"]:
        """A file that takes the place of ``path`` when the block ends well, and leaves nothing if not."""
        agents = await self._agents(owner, sandbox_id)
        self._check_room(sandbox_id)
        with _translated(path):
            async with agents.use() as agent:
                answer, descriptors = await agent.ask(Write(os.fsdecode(path), -1 if mode is None else mode))
                if not isinstance(answer, Writing):
                    close_all(descriptors)
                    raise Unresponsive("the sandbox answered something else")
                descriptor = plain_file(descriptors, mounted=True)
                try:
                    yield Upload(descriptor, partial(self._check_room, sandbox_id))
                    await _done(agent, Commit(""))
                except BaseException:
                    # Hanging up makes the agent throw its file away; asking for it keeps the agent.
                    with trio.move_on_after(5) as limit:
                        limit.shield = True
                        if agent.clean:
                            await _done(agent, Abort(""))
                    raise
                finally:
                    os.close(descriptor)

    async def list(self, owner: str, sandbox_id: str, path: bytes, recursive: bool) -> Listing:
        """What is in a directory, and with ``recursive`` in those below it."""
        agents = await self._agents(owner, sandbox_id)
        text = os.fsdecode(path)
        rows: list[str] = []
        size = 0
        cut = False
        with _translated(path):
            async with agents.use() as agent:
                answer, descriptors = await agent.ask(
                    Scan(text, int(recursive), self._settings.max_list_entries)
                )
                while True:
                    close_all(descriptors)
                    if not isinstance(answer, Entries) or len(rows) > self._settings.max_list_entries:
                        agent.clean = False
                        raise Unresponsive("the sandbox answered something else")
                    rows += answer.rows
                    size += sum(map(len, answer.rows))
                    if not answer.more:
                        break
                    if not answer.rows:  # nor may it keep us for ever with nothing
                        agent.clean = False
                        raise Unresponsive("the sandbox sends a listing without end")
                    if size > _LONGEST_LISTING:
                        agent.clean, cut = False, True
                        break
                    answer, descriptors = await agent.more()
            entries = [_entry(row, text) for row in rows]
        return Listing(entries, cut or bool(answer.truncated))

    async def remove(self, owner: str, sandbox_id: str, path: bytes, recursive: bool) -> None:
        """Remove a file, an empty directory or, with ``recursive``, all of one."""
        agents = await self._agents(owner, sandbox_id)
        with _translated(path):
            async with agents.use() as agent:
                await _done(agent, Remove(os.fsdecode(path), int(recursive)))


async def _done(agent: Conversation, message: Message) -> None:
    answer, descriptors = await agent.ask(message)
    close_all(descriptors)
    if not isinstance(answer, Done):
        agent.clean = False
        raise Unresponsive("the sandbox answered something else")


@contextmanager
def _translated(path: bytes) -> Iterator[None]:
    try:
        yield
    except Refusal as refusal:
        raise refusals.of_file(refusal, path.decode("utf-8", "replace")) from refusal
    except Unresponsive as error:
        raise Problem(
            Code.SANDBOX_UNRESPONSIVE, f"the sandbox does not answer: {error}", remedy="try again"
        ) from error


class OpenFile:
    """A regular file of a sandbox, by its descriptor. It may grow and shrink while it is read."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        found = os.fstat(descriptor)
        self.size = found.st_size
        self.mtime = found.st_mtime

    async def read_at(self, offset: int, n: int) -> bytes:
        """At most ``n`` bytes from ``offset``; none at the end. Raises ``Problem``."""
        try:
            if min(n, self.size - offset) <= _DIRECT:
                return os.pread(self._descriptor, min(n, _DIRECT), offset)
            return await trio.to_thread.run_sync(os.pread, self._descriptor, n, offset)
        except OSError as error:  # such as a descriptor that was not opened for reading
            raise Problem(
                Code.SANDBOX_UNRESPONSIVE, f"what the sandbox gave cannot be read: {error.strerror}"
            ) from error


class Upload:
    """A file being written. ``check`` raises ``Problem`` when there is no room for more."""

    def __init__(self, descriptor: int, check: Callable[[], None]) -> None:
        self._descriptor, self._check = descriptor, check
        self._unchecked = 0

    async def write(self, chunk: bytes) -> None:
        """Append. Waits for the disk, so that a fast client cannot fill memory. Raises ``Problem``."""
        self._unchecked += len(chunk)
        if self._unchecked >= _CHECK_EVERY:
            self._unchecked = 0
            self._check()
        try:
            await trio.to_thread.run_sync(_write_all, self._descriptor, chunk)
        except OSError as error:
            raise Problem(Code.NO_SPACE, f"the sandbox cannot take the file: {error.strerror}") from error


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _entry(row: str, top: str) -> Entry:
    """Raises ``Unresponsive`` for what no agent of ours writes."""
    try:
        name, kind, size, mode, uid, gid, mtime_ns, target = json.loads(row)
        if not all(abs(int(number)) < 1 << 63 for number in (size, uid, gid)):
            raise ValueError("a number that no file has")
        return Entry(
            name=str(name),
            path=f"{top.rstrip('/')}/{name}",
            type=_TYPES.get(kind, FileType.UNKNOWN),
            size=int(size),
            mode=int(mode) & 0o7777,
            uid=int(uid),
            gid=int(gid),
            mtime=int(mtime_ns) / 1e9,
            target=None if target is None else str(target),
        )
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise Unresponsive("the sandbox sent a listing that cannot be read") from error
