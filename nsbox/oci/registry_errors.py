"""What can go wrong with a registry, and what is tried again."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import httpcore2
import httpx2
import msgspec
import trio

from nsbox.oci.dialer import ForbiddenAddress

_T = TypeVar("_T")


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long is waited for what, in seconds; tests have less of it."""

    connect: float = 15.0
    #: Between two pieces of an answer.
    silence: float = 30.0
    #: For a whole manifest, config or token.
    document: float = 60.0
    #: A blob must bring so many bytes in each stretch of so many seconds: dripping is no better than silence.
    stretch: float = 60.0
    stretch_bytes: int = 64 * 1024
    #: The first wait before something is tried again; it doubles each time.
    backoff: float = 0.5
    longest_wait: float = 60.0
    tries: int = 5


class RegistryError(Exception):
    """The registry could not be asked. Trying again later may help."""


class NotThere(RegistryError):
    """The registry has no such image or blob, as far as it lets us know."""


class Denied(RegistryError):
    """The registry wants credentials, or others."""


class Unfit(RegistryError):
    """The registry's answer breaks a rule or a bound; it is not asked again."""


class Passing(RegistryError):
    """Something that passes. ``after``: seconds that the registry asked for."""

    def __init__(self, sentence: str, after: float | None = None) -> None:
        super().__init__(sentence)
        self.after = after


@contextmanager
def told_by(host: str) -> Iterator[None]:
    """What the HTTP client raises, in these terms."""
    try:
        yield
    except ForbiddenAddress as error:
        raise Unfit(str(error)) from error
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpcore2.UnsupportedProtocol) as error:
        raise Unfit(f"{host} redirects to what is no address") from error
    except (httpx2.TimeoutException, httpcore2.TimeoutException) as error:
        raise Passing(f"{host} does not answer in time") from error
    except (httpx2.HTTPError, httpcore2.NetworkError, httpcore2.ProtocolError) as error:
        raise Passing(f"{host}: {error or type(error).__name__}") from error


async def persistently(patience: Patience, attempt: Callable[[], Awaitable[_T]]) -> _T:
    """Try until it works, as often as ``patience`` says, after growing waits or those asked for."""
    wait = patience.backoff
    for left in reversed(range(patience.tries)):
        try:
            return await attempt()
        except Passing as error:
            if not left:
                raise
            # Not all clients at the same moment again.
            pause = error.after if error.after is not None else wait * random.uniform(0.5, 1.0)  # noqa: S311
            await trio.sleep(min(pause, patience.longest_wait))
            wait *= 2
    raise AssertionError("no try at all")
