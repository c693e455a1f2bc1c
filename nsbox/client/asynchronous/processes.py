"""``sandbox.processes``, and a process."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from nsbox.client.asynchronous.driver import AsyncDriver
from nsbox.client.asynchronous.method import AsyncMade, AsyncMethod, AsyncScope
from nsbox.client.asynchronous.streams import AsyncCommandStream
from nsbox.client.call import Call
from nsbox.client.errors import StdinFull, TimedOut, from_answer
from nsbox.client.following import Following
from nsbox.client.routes import commands
from nsbox.client.types.command import ProcessInfo

if TYPE_CHECKING:
    from nsbox.client.asynchronous.attached import AsyncAttached


class AsyncProcess(AsyncScope):
    """A process of a sandbox. ``info`` is how it was when nsbox was asked last."""

    ticket = AsyncMethod(commands.ticket)
    logs = AsyncMethod(commands.logs)

    def __init__(self, driver: AsyncDriver, here: str, info: ProcessInfo) -> None:
        super().__init__(driver, commands.at(here, info.id))
        self._here, self.info = here, info

    def __repr__(self) -> str:
        return f"<AsyncProcess {self.id} {self.info.status}>"

    @property
    def id(self) -> str:
        """Its name in the API."""
        return self.info.id

    async def refresh(self) -> ProcessInfo:
        """How it is now."""
        return await self._known(commands.get(self._at))

    async def wait(self, timeout: float | None = None) -> ProcessInfo:  # noqa: ASYNC109 - the daemon keeps it
        """How it ended. Raises ``TimedOut`` after ``timeout`` seconds; without, it waits for as long as it
        runs."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            left = commands.LONGEST_WAIT if until is None else max(until - time.monotonic(), 0.0)
            await self._known(commands.wait_once(self._at, min(left, commands.LONGEST_WAIT)))
            if not self.info.running:
                return self.info
            if until is not None and time.monotonic() >= until:
                raise TimedOut(f"process {self.id} still runs after {timeout:g} s")

    async def signal(self, signal: str | int) -> ProcessInfo:
        """Send ``TERM``, ``INT``, 9, … to it and its process group."""
        return await self._known(commands.signal(self._at, signal))

    async def kill(self) -> ProcessInfo:
        """End it and all it started; it and its output are forgotten."""
        ended = await self._driver.do(commands.kill(self._at))
        if ended is not None:
            self.info = ended
        return self.info

    async def write(
        self,
        data: bytes | str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the daemon keeps it
    ) -> int:
        """To its stdin, which was started open; the number of bytes. Waits as long as it does not read, or
        for ``timeout`` seconds: then ``StdinFull``, with what was taken in ``document["written"]``. After a
        lost connection nothing is sent again, since it may have been taken."""
        view = memoryview(data.encode() if isinstance(data, str) else data)
        until = None if timeout is None else time.monotonic() + timeout
        done = 0
        while done < len(view):
            piece = bytes(view[done : done + commands.STDIN_BYTES])
            left = commands.USUAL_WAIT if until is None else max(until - time.monotonic(), 0.0)
            try:
                done += await self._stdin(piece, close=False, timeout=min(left, commands.USUAL_WAIT))
            except StdinFull as error:
                taken = error.document.get("written")
                done += taken if isinstance(taken, int) else 0
                if until is not None and time.monotonic() >= until:
                    raise type(error)(error.status, {**error.document, "written": done}) from error
        return done

    async def close_stdin(self) -> None:
        """It reads its end. Closing twice does no harm."""
        await self._stdin(b"", close=True, timeout=None)

    async def _stdin(
        self,
        data: bytes,
        *,
        close: bool,
        timeout: float | None,  # noqa: ASYNC109 - the daemon keeps it
    ) -> int:
        attempts = self._driver.attempts()
        with self._driver.discreet():
            while True:
                answer = await self._driver.ask(commands.stdin(self._at, data, close=close, timeout=timeout))
                if answer.status == 200:
                    return commands.written(answer.body).written
                refusal = from_answer(answer.status, answer.body, answer.headers.get("retry-after"))
                await self._driver.sleep(attempts.refused(refusal, safe=not data))

    def follow(self, offset: int = 0) -> AsyncCommandStream:
        """Its output from ``offset`` on, as it comes, until it has ended."""
        request = commands.follow(self._at)
        return AsyncCommandStream(
            self._driver,
            self._here,
            Following(request, lambda key: request, self._driver.attempts(), offset),
        )

    def attach(self, offset: int = 0) -> AsyncAttached:
        """Its outputs from ``offset`` on, its stdin and its terminal, at once, with ``async with``."""
        from nsbox.client.asynchronous.attached import AsyncAttached
        from nsbox.client.attaching import Attaching

        attaching = Attaching(self._at, self.info, self._driver.attempts(), offset)
        return AsyncAttached(self._driver, self, attaching)

    async def output(self) -> bytes:
        """What is kept of both outputs now."""
        data, offset = b"", self.info.log_start
        while True:
            page = await self.logs(offset=offset)
            self.info = page.process
            data += page.data
            if page.next_offset >= self.info.log_end or page.next_offset == offset:
                return data
            offset = page.next_offset

    async def _known(self, call: Call[ProcessInfo]) -> ProcessInfo:
        self.info = await self._driver.do(call)
        return self.info


def _one(scope: AsyncScope, info: ProcessInfo) -> AsyncProcess:
    return AsyncProcess(scope._driver, scope._at, info)


def _all(scope: AsyncScope, found: list[ProcessInfo]) -> list[AsyncProcess]:
    return [_one(scope, info) for info in found]


class AsyncProcesses(AsyncScope):
    """Commands of a sandbox that run in the background, or did."""

    start = AsyncMade(commands.start, _one)
    get = AsyncMade(commands.find, _one)
    list = AsyncMade(commands.get_all, _all)
    kill_all = AsyncMethod(commands.kill_all)
