"""Every query parameter of the API, declared once: handlers read by these, and the OpenAPI document is made
from them, so that the two cannot differ. What is read is the parsed query of ``query.parse``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from nsbox.api import query
from nsbox.model.errors import Code, Problem
from nsbox.model.lifecycle import State
from nsbox.model.period import parse_day
from nsbox.model.sandbox import Encoding

T = TypeVar("T")
JSON = dict[str, Any]
_DIGITS = 18


@dataclass(frozen=True)
class Parameter(Generic[T]):
    """A parameter of the query: how it is read, and how it is described."""

    name: str
    text: str

    #: Whether a request without it is refused.
    required = False

    def of(self, asked: query.Query) -> T:
        """Its value in a request. Raises ``INVALID_FIELD``."""
        raise NotImplementedError

    def schema(self) -> JSON:
        """Its JSON schema."""
        raise NotImplementedError


@dataclass(frozen=True)
class Flag(Parameter[bool]):
    """``true`` or ``false``."""

    default: bool = False

    def of(self, asked: query.Query) -> bool:
        return query.flag(asked, self.name) if self.name in asked else self.default

    def schema(self) -> JSON:
        return {"type": "boolean", "default": self.default}


@dataclass(frozen=True)
class Number(Parameter[int]):
    """A whole number within bounds, in ASCII digits."""

    default: int = 0
    low: int = 0
    high: int = 10**_DIGITS - 1

    def of(self, asked: query.Query) -> int:
        raw = asked.get(self.name)
        return self.default if raw is None else self.read(raw, self.name)

    def read(self, raw: bytes, field: str) -> int:
        """The number, also where it comes by a header."""
        if not raw.isdigit() or len(raw) > _DIGITS or not self.low <= int(raw) <= self.high:
            detail = f"{field} is a number from {self.low} to {self.high}"
            raise Problem(Code.INVALID_FIELD, detail, field=field, minimum=self.low, maximum=self.high)
        return int(raw)

    def schema(self) -> JSON:
        return {"type": "integer", "minimum": self.low, "maximum": self.high, "default": self.default}


@dataclass(frozen=True)
class Choice(Parameter[str | None]):
    """One of some words; ``default`` is for the reader, without a word the handler decides."""

    words: tuple[str, ...] = ()
    default: str | None = None

    def of(self, asked: query.Query) -> str | None:
        value = query.text(asked, self.name)
        if value is not None and value not in self.words:
            raise Problem(Code.INVALID_FIELD, f"{self.name} is {' or '.join(self.words)}", field=self.name)
        return self.default if value is None else value

    def schema(self) -> JSON:
        told: JSON = {"type": "string", "enum": list(self.words)}
        return told if self.default is None else {**told, "default": self.default}


@dataclass(frozen=True)
class Text(Parameter[str]):
    """Any text up to a length; empty where it is not given."""

    longest: int = 512
    ascii: bool = False
    required: bool = False

    def of(self, asked: query.Query) -> str:
        value = query.text(asked, self.name) or ""
        if len(value) > self.longest or (self.ascii and not value.isascii()) or (self.required and not value):
            raise Problem(Code.INVALID_FIELD, f"{self.name}: {self.text}", field=self.name)
        return value

    def schema(self) -> JSON:
        told: JSON = {"type": "string", "maxLength": self.longest}
        return {**told, "minLength": 1} if self.required else told


@dataclass(frozen=True)
class Path(Parameter[bytes]):
    """An absolute path within a sandbox."""

    required = True

    def of(self, asked: query.Query) -> bytes:
        return query.path_of(asked)

    def schema(self) -> JSON:
        return {
            "type": "string",
            "minLength": 1,
            "maxLength": query.MAX_PATH_BYTES,
            "pattern": r"^/[^\x00]*$",
        }


@dataclass(frozen=True)
class Mode(Parameter[int | None]):
    """Permission bits."""

    def of(self, asked: query.Query) -> int | None:
        return query.mode(query.text(asked, self.name))

    def schema(self) -> JSON:
        return {"type": "string", "pattern": "^0?[0-7]{1,4}$"}


@dataclass(frozen=True)
class Day(Parameter[int | None]):
    """A day in UTC, counted from the epoch."""

    def of(self, asked: query.Query) -> int | None:
        value = query.text(asked, self.name)
        if value is None:
            return None
        day = parse_day(value)
        if day is None:
            raise Problem(
                Code.INVALID_FIELD,
                f"{self.name} is a day (UTC), not {value[:80]!r}",
                field=self.name,
                remedy=f"write it as {self.name}=2026-11-25; usage is counted by whole days",
            )
        return day

    def schema(self) -> JSON:
        return {"type": "string", "format": "date"}


_ALL = "all"


@dataclass(frozen=True)
class States(Parameter[frozenset[State]]):
    """``running,paused``; ``all`` for every one; the living ones when nothing is said."""

    def of(self, asked: query.Query) -> frozenset[State]:
        value = query.text(asked, self.name)
        if value is None:
            return frozenset(state for state in State if state.alive)
        if value == _ALL:
            return frozenset(State)
        try:
            return frozenset(State(word) for word in value.split(","))
        except ValueError as error:
            known = ", ".join(State)
            detail = f"{self.name} is all, or some of: {known}"
            raise Problem(Code.INVALID_FIELD, detail, field=self.name) from error

    def schema(self) -> JSON:
        one = "|".join(State)
        return {"type": "string", "pattern": f"^({_ALL}|({one})(,({one}))*)$"}


Known = tuple[Parameter[Any], ...]


def names(known: Known) -> frozenset[str]:
    """As ``query.parse`` takes them."""
    return frozenset(one.name for one in known)


_ENCODINGS = tuple(Encoding)
MAX_WAIT_MS = 300_000

AUDIT_LIMIT = Number("limit", "Events in one answer.", 100, 1, 1_000)
BEFORE = Number("before", "Only those before this one: what the answer before had as `next`.", 0)
BY_SANDBOX = Text("sandboxId", "Only what was done to this sandbox.", longest=128)
BY_USER = Text("userId", "Only what this user did.", longest=128)
BY_ACTION = Text("action", "Only this operation.", longest=128)
BEGIN_DAY = Day("from", "The first day; without it that of this month.")
END_DAY = Day("to", "The day behind the last; without it the first of next month.")
USAGE_BY = Choice("by", "What a line is for.", ("day", "sandbox", "key", "total"), "day")
USAGE_FORMAT = Choice("format", "With `csv` a table with a line of names.", ("json", "csv"), "json")
ALL_KEYS = Flag("all", "Those of all users; for keys with the scope `admin`.")
STATUS = States("status", "`all`, or states with commas between; without it those that are alive")
HISTORY = Flag("history", "With the samples of the last hour.", default=True)
SANDBOXES = Flag("sandboxes", "Also a series of each sandbox.")

PATH = Path("path", "An absolute path within the sandbox, up to 4095 bytes, 255 for each part.")
MODE = Mode("mode", "Permission bits as octal digits; with `application/octet-stream` only.")
LIST = Flag("list", "List the folder.")
RECURSIVE = Flag("recursive", "With all that is below it.")
RAW_FILE = Flag("raw", "The bytes as they are, as `application/octet-stream`.")
FILE_ENCODING = Choice("encoding", "Of `content`; without it what fits the bytes.", _ENCODINGS)

STREAM = Flag("stream", "Answer at once, with events.")
FROM = Number("offset", "Begin behind so many bytes; goes with `stream=true`.")
EVERY = Flag("all", "Also commands that are waited for, and those that ended last.")
WAIT_MS = Number("timeoutMs", "How long to wait for its end.", 30_000, 0, MAX_WAIT_MS)
OFFSET = Number("offset", "Where to begin; a header `Last-Event-ID` counts more.")
FOLLOW = Flag("follow", "Events from `offset` on, until the command has ended; with `raw` the bytes.")
LOG_ENCODING = Choice("encoding", "Of `data`.", _ENCODINGS, Encoding.UTF8)
LOG_LIMIT = Number("limit", "Bytes in one answer, about.", 1 << 20, 1, 10 << 20)
RAW_LOG = Flag("raw", "The bytes themselves, as `application/octet-stream`, from `X-Log-Offset` on.")
ONE_STREAM = Choice("stream", "One of the outputs; with `raw`.", ("stdout", "stderr"))
ON_DISCONNECT = Choice(
    "onDisconnect", "What becomes of the command when this client leaves.", ("continue", "kill"), "continue"
)
CLOSE = Flag("close", "Close it behind what is written.")
PATIENCE_MS = Number("timeoutMs", "How long to wait for a process that does not read.", 2_000, 0, MAX_WAIT_MS)

AFTER = Text("after", "What the answer before had as `next`.", longest=8_192, ascii=True)
PAGE = Number("limit", "Changes in one answer.", 1_000, 1, 10_000)
FORMAT = Choice("format", "`oci`: an OCI layout; `tar`: the files, in one tar.", ("oci", "tar"), "oci")
IMAGE = Text("image", "The name of an image that is here.", required=True)
NAME = Text("name", "What it shall be called, unless the archive says.")

GET_FILE: Known = (PATH, LIST, RECURSIVE, FILE_ENCODING, RAW_FILE)
DOWNLOAD: Known = (PATH, RAW_FILE)
REMOVE_FILE: Known = (PATH, RECURSIVE)
TICKET_OF_FILE: Known = (PATH,)
UPLOAD: Known = (PATH, MODE)
EXEC: Known = (STREAM, FROM, ON_DISCONNECT)
ATTACH: Known = (OFFSET, ON_DISCONNECT)
LOGS: Known = (OFFSET, FOLLOW, LOG_ENCODING, LOG_LIMIT, RAW_LOG, ONE_STREAM, ON_DISCONNECT)
STDIN: Known = (CLOSE, PATIENCE_MS)
DIFF: Known = (AFTER, PAGE)
AUDIT: Known = (AUDIT_LIMIT, BEFORE, BY_SANDBOX, BY_USER, BY_ACTION)
USAGE: Known = (BEGIN_DAY, END_DAY, USAGE_BY, USAGE_FORMAT)
EXPORT_IMAGE: Known = (FORMAT, IMAGE)
