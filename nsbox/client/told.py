"""What goes on over several answers: the part that a driver sees of ``Following`` and ``Telling``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol, TypeVar

from nsbox.client.call import EVENTS, Request
from nsbox.client.errors import ConnectionFailed
from nsbox.client.retries import Answer

E_co = TypeVar("E_co", covariant=True)


class Told(Protocol[E_co]):
    """``done`` after its last event. ``refused`` and ``lost``: the pause before the next try, or an error."""

    done: bool

    def request(self) -> Request: ...
    def refused(self, answer: Answer) -> float: ...
    def lost(self, error: ConnectionFailed) -> float: ...
    def ended(self) -> None: ...
    def feed(self, data: bytes) -> Iterator[E_co]: ...


def is_events(status: int, headers: Mapping[str, str]) -> bool:
    """Whether an answer is a stream of events."""
    return status == 200 and headers.get("content-type", "").startswith(EVENTS)
