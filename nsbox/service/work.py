"""Work that several may wait for: what it does at the moment, and how it ended."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Generic, TypeVar

import trio

from nsbox.model.errors import Code, HostProblem, Problem
from nsbox.model.image import Progress, Stage

T = TypeVar("T")
#: News are gathered for so long, in seconds: nobody watches more closely.
_GATHER = 0.1


class Work(Generic[T]):
    """A pull or a push. Who waits for it may leave; it goes on. Whoever does it sets ``result`` or
    ``problem``, and ends it."""

    def __init__(self, reference: str) -> None:
        self.reference = reference
        self.result: T | None = None
        self.problem: Problem | HostProblem | None = None
        self.done = trio.Event()
        self._latest: dict[str, Progress] = {}
        self._changed = trio.Event()

    def tell(self, stage: Stage, layer: str = "", current: int = 0, total: int = 0) -> None:
        """News. Only the latest of each layer counts, so nobody can be too slow to take them."""
        self._latest[layer] = Progress(stage=stage, layer=layer, current=current, total=total)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def end(self) -> None:
        """It is over, one way or the other."""
        if self.result is None and self.problem is None:  # cancelled
            self.problem = Problem(Code.SHUTTING_DOWN, "nsbox is being stopped", remedy="try again")
        self.done.set()
        self._wake()

    async def wait(self) -> T:
        """The result. Raises ``Problem``, ``HostProblem``."""
        await self.done.wait()
        if self.problem is not None:
            # Each who waits gets an error of their own: tracebacks are added to what is raised.
            raise self.problem.with_traceback(None)
        assert self.result is not None
        return self.result

    async def news(self) -> AsyncGenerator[Progress, None]:
        """What happens, from now until the end. Close it (``aclosing``)."""
        seen: dict[str, Progress] = {}
        while True:
            changed = self._changed
            for layer, latest in sorted(self._latest.items(), key=_when):
                if seen.get(layer) != latest:
                    seen[layer] = latest
                    yield latest
            if self.done.is_set() and seen == self._latest:
                return
            if seen == self._latest:
                await changed.wait()
                with trio.move_on_after(_GATHER):
                    await self.done.wait()


def _when(news: tuple[str, Progress]) -> int:
    """Of the image as a whole (no layer) first, and "done" when all is said."""
    layer, latest = news
    if layer:
        return 1
    return 2 if latest.stage is Stage.DONE else 0
