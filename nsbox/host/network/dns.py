"""DNS messages (RFC 1035), as far as a forwarder must understand them. Pure; whatever comes is hostile."""

import struct
from ipaddress import ip_address
from typing import Final, NamedTuple

_HEADER = struct.Struct(">HHHHHH")
_FIXED = struct.Struct(">HHIH")
_A, _AAAA = 1, 28
_ANSWER, _TRUNCATED, _OPCODE, _ASKED_RECURSION, _RECURSION = 0x8000, 0x0200, 0x7800, 0x0100, 0x0080
NXDOMAIN: Final = 3
SERVFAIL: Final = 2
#: The longest name in the text form.
_LONGEST: Final = 255
#: More records than this in one answer are not looked at.
_MOST_RECORDS: Final = 256


class BadMessage(ValueError):
    """Not a message that is to be answered or believed."""


class Question(NamedTuple):
    """``name`` is in lower case and without the dot at the end; ``end`` is where the question ends."""

    id: int
    name: str
    kind: int
    flags: int
    end: int


class Answer(NamedTuple):
    """An address of a name, and how many seconds it holds."""

    address: bytes
    seconds: int


def question(message: bytes) -> Question:
    """The one question of a query. Raises ``BadMessage``."""
    if len(message) < _HEADER.size:
        raise BadMessage("short")
    identity, flags, questions, answers, _, _ = _HEADER.unpack_from(message)
    if flags & (_ANSWER | _OPCODE) or questions != 1 or answers:
        raise BadMessage("not a query with one question")
    return _question(message, identity, flags)


def _question(message: bytes, identity: int, flags: int) -> Question:
    name, offset = _name(message, _HEADER.size)
    if offset + 4 > len(message):
        raise BadMessage("cut off")
    kind, group = struct.unpack_from(">HH", message, offset)
    if group != 1:
        raise BadMessage("not of the class IN")
    return Question(identity, name, kind, flags, offset + 4)


def answers(message: bytes, asked: Question) -> list[Answer]:
    """The addresses in a response to ``asked``. Raises ``BadMessage`` when it is none to that."""
    if len(message) < _HEADER.size:
        raise BadMessage("short")
    _, flags, questions, count, _, _ = _HEADER.unpack_from(message)
    if not flags & _ANSWER or questions != 1:
        raise BadMessage("not a response")
    told = _question(message, asked.id, flags)
    if (told.name, told.kind) != (asked.name, asked.kind):
        raise BadMessage("a response to something else")
    found, offset = [], told.end
    for _ in range(min(count, _MOST_RECORDS)):
        offset = _skip_name(message, offset)
        if offset + _FIXED.size > len(message):
            raise BadMessage("cut off")
        kind, group, seconds, length = _FIXED.unpack_from(message, offset)
        offset += _FIXED.size
        data = message[offset : offset + length]
        offset += length
        if group == 1 and (kind, length) in ((_A, 4), (_AAAA, 16)) and len(data) == length:
            found.append(Answer(data, seconds))
    return found


def is_answer_to(message: bytes, identity: int) -> bool:
    return (
        len(message) >= _HEADER.size
        and message[:2] == identity.to_bytes(2, "big")
        and bool(message[2] & 0x80)
    )


def is_truncated(message: bytes) -> bool:
    return bool(int.from_bytes(message[2:4], "big") & _TRUNCATED)


def refusal(message: bytes, asked: Question, code: int) -> bytes:
    """An answer without answers."""
    flags = _ANSWER | _RECURSION | (asked.flags & _ASKED_RECURSION) | code
    return _HEADER.pack(asked.id, flags, 1, 0, 0, 0) + message[_HEADER.size : asked.end]


def _name(message: bytes, offset: int) -> tuple[str, int]:
    """A name without compression: in the question there is nothing yet to point at."""
    labels: list[str] = []
    total = 0
    while True:
        if offset >= len(message):
            raise BadMessage("cut off")
        length = message[offset]
        offset += 1
        if length == 0:
            return ".".join(labels), offset
        total += length + 1
        if length > 63 or total > _LONGEST or offset + length > len(message):
            raise BadMessage("a name that is none")
        label = message[offset : offset + length]
        # A dot within a label would make two names look alike; in text form it is written so.
        labels.append(
            "".join(chr(b) if 0x21 <= b <= 0x7E and b not in b".\\" else f"\\{b:03d}" for b in label.lower())
        )
        offset += length


def _skip_name(message: bytes, offset: int) -> int:
    """Past a name, which may end in a pointer. It is not followed."""
    while True:
        if offset >= len(message):
            raise BadMessage("cut off")
        length = message[offset]
        if length == 0:
            return offset + 1
        if length >= 0xC0:
            return offset + 2
        if length > 63:
            raise BadMessage("a name that is none")
        offset += length + 1


def text(address: bytes) -> str:
    return str(ip_address(address))
