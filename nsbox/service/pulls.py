"""A pull that several may wait for: what it does at the moment, and how it ended."""

from __future__ import annotations

import errno
from collections.abc import AsyncGenerator

import trio

from nsbox.host.storage import full
from nsbox.model.errors import Code, HostProblem, Problem
from nsbox.model.image import Image, Progress, Stage
from nsbox.oci.layers import LayerRefused, Reason
from nsbox.oci.manifests import BadImage
from nsbox.oci.registry_errors import Denied, NotThere, RegistryError
from nsbox.service.layers import HOSTS_FAULT

#: News are gathered for so long, in seconds: nobody watches more closely.
_GATHER = 0.1


class Pull:
    """One image on its way. Who waits for it may leave; it goes on."""

    def __init__(self, reference: str) -> None:
        self.reference = reference
        self.image: Image | None = None
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

    def end(self, image: Image | None, problem: Problem | HostProblem | None) -> None:
        """It is over, one way or the other."""
        self.image, self.problem = image, problem
        self.done.set()
        self._wake()

    async def wait(self) -> Image:
        """The image. Raises ``Problem``, ``HostProblem``."""
        await self.done.wait()
        if self.problem is not None:
            # Each who waits gets an error of their own: tracebacks are added to what is raised.
            raise self.problem.with_traceback(None)
        assert self.image is not None
        return self.image

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


def problem_of(error: Exception, familiar: str) -> Problem | HostProblem | None:
    """Why there is no image, in the words of the API; None for what is a fault of nsbox."""
    match error:
        case Problem() | HostProblem():
            return error
        case NotThere():
            return Problem(
                Code.IMAGE_NOT_AVAILABLE,
                f"{familiar} cannot be had: {error}",
                field="image",
                remedy="check its name and tag",
            )
        case Denied():
            return Problem(
                Code.IMAGE_NOT_AVAILABLE,
                f"{familiar} cannot be had: {error}",
                field="image",
                remedy="check its name; let the operator give nsbox credentials for this registry",
            )
        case RegistryError():
            return Problem(
                Code.REGISTRY_FAILED,
                f"{familiar} cannot be had: {error}",
                remedy=error.remedy or "try again later",
            )
        case BadImage():
            return Problem(Code.IMAGE_REFUSED, f"{familiar} cannot be used: {error}", field="image")
        case LayerRefused() if error.reason is Reason.NO_SPACE:
            return full()
        case LayerRefused() if error.reason in HOSTS_FAULT:
            return HostProblem(f"{familiar} could not be unpacked: {error.detail}", remedy="see the log")
        case LayerRefused():
            return Problem(
                Code.IMAGE_REFUSED,
                f"{familiar} cannot be used: {error.detail}",
                field="image",
                reason=str(error.reason),
            )
        case OSError() if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return full()
    return None
