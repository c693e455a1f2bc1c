"""What a call is, apart from who sends it and how: the two clients share every description."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import quote

import msgspec

from nsbox.client.errors import UnexpectedAnswer

T = TypeVar("T")

#: What a value of a query may be; what is None is left out.
Value = str | bytes | bool | int | None
OCTETS = "application/octet-stream"
EVENTS = "text/event-stream"


class Request(NamedTuple):
    """What goes over the wire, but for the key, which only the transport knows: this may be shown."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()
    body: Any = None  # bytes, or what a transport knows how to read
    #: How long to wait for each part of the answer, in seconds.
    timeout: float = 60.0


class Call(NamedTuple, Generic[T]):
    """One route with its wish. ``safe``: asked twice it does no more than once. ``keyed``: it is so with an
    Idempotency-Key, which is ``key`` or made for it. ``patience``: how long nsbox may think, on top of what
    is usual. ``again``: the answer when a request that is sent again finds that nothing is there any more."""

    method: str
    path: str
    parse: Callable[[bytes], T]
    query: str = ""
    body: bytes | None = None
    safe: bool = False
    keyed: bool = False
    key: str | None = None
    patience: float = 0.0
    again: Callable[[], T] | None = None

    @property
    def target(self) -> str:
        """Path and query, behind the prefix of the API."""
        return f"{self.path}?{self.query}" if self.query else self.path

    @property
    def raw(self) -> Call[bytes]:
        """The same, for the answer as it comes."""
        return Call(
            self.method,
            self.path,
            bytes,
            query=self.query,
            body=self.body,
            safe=self.safe,
            keyed=self.keyed,
            key=self.key,
            patience=self.patience,
        )


def part(text: str) -> str:
    """A name as one part of a path: whatever is in it, it cannot lead elsewhere. A part ``..`` would be taken
    for a step up, and no name of nsbox's is empty or all dots."""
    if not text.strip("."):
        raise ValueError(f"{text!r} is not the name of anything")
    return quote(text, safe="")


def image_part(name: str) -> str:
    """Images are written as they are, slashes and all."""
    if not name or any(not one.strip(".") for one in name.split("/")):
        raise ValueError(f"{name!r} is not the name of an image")
    return quote(name, safe="/:@")


def query(**values: Value) -> str:
    """A query. A name may have an underscore behind it, where Python has the word (``from_``)."""
    return "&".join(
        f"{name.rstrip('_')}={quote(_written(value), safe='/')}"
        for name, value in values.items()
        if value is not None and value is not False
    )


def _written(value: str | bytes | bool | int) -> str | bytes:
    if value is True:
        return "true"
    return value if isinstance(value, (str, bytes)) else str(value)


def body(**members: Any) -> bytes:
    """A JSON object of the members that are given, named as the API names them."""
    return msgspec.json.encode({camel(name): value for name, value in members.items() if value is not None})


def camel(name: str) -> str:
    """``memory_mb`` → ``memoryMb``."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def milliseconds(seconds: float | None) -> int | None:
    """The API counts milliseconds, people seconds. A little is never nothing."""
    return None if seconds is None else round(seconds * 1000) or (1 if seconds > 0 else 0)


def strings(command: str | Iterable[str]) -> str | list[str]:
    """A command as JSON has it."""
    return command if isinstance(command, str) else list(command)


def variables(env: Mapping[str, str] | None) -> dict[str, str] | None:
    """An environment as JSON has it."""
    return None if env is None else dict(env)


def reader(kind: type[T]) -> Callable[[bytes], T]:
    """Reads answers of one kind. Members it does not know are of a newer nsbox, and left alone."""

    def read(data: bytes) -> T:
        try:
            return msgspec.json.decode(data, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UnexpectedAnswer(f"the answer is not what nsbox gives: {error}") from error

    return read
