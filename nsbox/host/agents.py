"""A sandbox's file agents, as api uses them: asked one thing at a time, replaced when they do not answer."""

import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache

import trio

from nsbox.host.box import Box, Refusal, Unresponsive
from nsbox.host.boxtime import BoxTime
from nsbox.host.closing import close_all
from nsbox.host.endpoint import Closed, Endpoint, Unread
from nsbox.kernel import libc
from nsbox.model.sandbox import new_command_id
from nsbox.wire.messages import Message, Refused

#: What an agent may take for one step, in seconds. Removing or listing a large tree is one step.
PATIENCE = 60.0
#: So many agents at once for one sandbox; further requests wait for one of them.
_MOST = 4
#: An agent is kept for the next request, and let go after this time, in seconds.
_KEEP = 10.0
#: File systems a descriptor from a sandbox may be on: its own data, and memory. A file of any other could
#: answer by who reads it, or make the reader wait.
_PLAIN = frozenset({0x794C_7630, 0x0102_1994})  # overlayfs, tmpfs


class Agents:
    """The agents of one sandbox, all acting as its root."""

    def __init__(self, box: Box) -> None:
        self._box = box
        self._idle: list[tuple[Endpoint, float]] = []
        self._limit = trio.CapacityLimiter(_MOST)

    @asynccontextmanager
    async def use(self) -> AsyncIterator["Conversation"]:
        """An agent for a while. It goes back only if the conversation came to a clean end."""
        async with self._limit:
            conversation = Conversation(self._take() or await self._open(), self._open, self._box.time)
            try:
                yield conversation
            finally:
                if conversation.clean:
                    self._idle.append((conversation.endpoint, trio.current_time()))
                else:
                    conversation.endpoint.close()

    @property
    def busy(self) -> bool:
        """Whether somebody is using one."""
        return self._limit.borrowed_tokens > 0

    async def _open(self) -> Endpoint:
        return await self._box.open_agent(new_command_id(), "")

    def _take(self) -> Endpoint | None:
        while self._idle:
            endpoint, since = self._idle.pop()
            if not endpoint.broken and trio.current_time() - since < 10 * _KEEP:
                return endpoint
            endpoint.close()
        return None

    def let_go(self) -> None:
        """Close agents that nobody has used for a while: each is a process of the sandbox."""
        horizon = trio.current_time() - _KEEP
        for endpoint, since in [pair for pair in self._idle if pair[1] < horizon]:
            self._idle.remove((endpoint, since))
            endpoint.close()

    def close(self) -> None:
        for endpoint, _ in self._idle:
            endpoint.close()
        self._idle.clear()


class _Missed(Unresponsive):
    """The agent was gone before it read the request."""


class Conversation:
    """One agent, while it is ours. ``clean``: no request is half-done, so that another may follow."""

    def __init__(self, endpoint: Endpoint, another: Callable[[], Awaitable[Endpoint]], time: BoxTime) -> None:
        self.endpoint = endpoint
        self._another, self._time = another, time
        self.clean = True

    async def ask(self, message: Message) -> tuple[Message, list[int]]:
        """Send a request and take the first answer. Raises ``Refusal``, ``Unresponsive``."""
        self.clean = False
        try:
            answer, descriptors = await self._exchange(message)
        except _Missed:
            # Killed while it was idle, as everything in the sandbox may be at any time: another one is asked.
            self.endpoint.close()
            self.endpoint = await self._another()
            answer, descriptors = await self._exchange(message)
        self.clean = True
        if isinstance(answer, Refused):
            close_all(descriptors)
            raise Refusal(answer)
        return answer, descriptors

    async def more(self) -> tuple[Message, list[int]]:
        """The next part of an answer in several."""
        self.clean = False
        answer, descriptors = await self._exchange(None)
        self.clean = True
        return answer, descriptors

    async def _exchange(self, message: Message | None) -> tuple[Message, list[int]]:
        try:
            with self._time.fail_after(PATIENCE):
                if message is not None:
                    await self.endpoint.send(message)
                return await self.endpoint.receive()
        except Unread as error:
            raise _Missed(str(error)) from error
        except (Closed, trio.TooSlowError) as error:
            raise Unresponsive(str(error) or "no answer in time") from error


@cache
def _of_no_mount() -> int:
    """The device of files in memory that were never in a folder: the kernel has one mount for all of them."""
    descriptor = os.memfd_create("nsbox-device", os.MFD_CLOEXEC)
    try:
        return os.fstat(descriptor).st_dev
    finally:
        os.close(descriptor)


def plain_file(descriptors: list[int], *, mounted: bool = False) -> int:
    """The one descriptor of an answer, if it is a regular file of a kind that is safe to touch.

    ``mounted``: it must be of a mount. What api writes to a file in memory is counted for api: one of a mount
    has that mount's bound, any other has none.

    Closes them all and raises ``Unresponsive`` otherwise: only a tampered-with agent sends anything else.
    """
    if len(descriptors) == 1:
        descriptor = descriptors[0]
        told = os.fstat(descriptor)
        plain = stat.S_ISREG(told.st_mode) and libc.filesystem_type(descriptor) in _PLAIN
        if plain and not (mounted and told.st_dev == _of_no_mount()):
            return descriptor
    close_all(descriptors)
    raise Unresponsive("the sandbox sent something that is not a plain file")
