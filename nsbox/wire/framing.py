"""Messages to bytes and back. Pure: bytes in and out, no sockets.

A packet is one byte for the kind, four for the length of the JSON array of its fields, the array, and the
blob if the kind has one. Decoding is strict: api reads what a hostile init may have written.
"""

import array
import json
import socket
import struct
from collections.abc import Callable, Sequence
from json.encoder import encode_basestring
from typing import get_args, get_type_hints

from nsbox.wire import messages
from nsbox.wire.messages import Message

#: Linux refuses a packet larger than the sender's buffer. ``SO_SNDBUF`` at the default ``wmem_max`` holds
#: 416 KiB; this leaves room for the kernel's own accounting.
MAX_PACKET = 384 * 1024
#: The most descriptors that one message carries (Exec: three streams and three ends to keep).
MAX_DESCRIPTORS = 6
#: Room for them in recvmsg.
ANCILLARY_ROOM = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)
#: What senders ask of SO_SNDBUF so that the largest packet fits; the kernel doubles it.
SEND_BUFFER = 212_992

# json.loads, less the white space around. (typeshed does not know it.)
_scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
_HEADER = struct.Struct("<BI")
_KINDS: tuple[type, ...] = get_args(Message)
_NUMBERS = {kind: number for number, kind in enumerate(_KINDS, 1)}


class WireError(Exception):
    """A peer sent what it must not send."""


class PacketTooLarge(Exception):
    """A message does not fit into one packet."""


def _is_strings(value: object) -> bool:
    return type(value) is list and all(type(item) is str for item in value)


#: Whole numbers fit 64 bits: JSON has no bound, and what is made of them later (SQLite, msgspec) has.
_INT_LOW, _INT_HIGH = -(1 << 63), (1 << 63) - 1

_CHECKS: dict[object, Callable[[object], bool]] = {
    int: lambda value: type(value) is int and _INT_LOW <= value <= _INT_HIGH,
    str: lambda value: type(value) is str,
    tuple[str, ...]: _is_strings,
}
#: The same on the sender's side, where lists are tuples and an enum's member may stand for its string.
_SENT: dict[object, Callable[[object], bool]] = {
    int: _CHECKS[int],
    str: lambda value: isinstance(value, str),
    tuple[str, ...]: lambda value: type(value) is tuple and all(isinstance(item, str) for item in value),
}
_SHAPES = {kind: tuple(get_type_hints(kind).items()) for kind in _KINDS}
_HAS_BLOB = frozenset(kind for kind, shape in _SHAPES.items() if shape and shape[-1] == ("blob", bytes))


def encode(message: Message) -> bytes:
    """The packet for ``message``. Raises ``PacketTooLarge``, and ``TypeError`` for a field of a wrong type.

    Types are checked here too, since the peer answers a wrong one by hanging up: a mistake of the sender
    would look like a broken sandbox. mypy does not see it all; to it True is an int.
    """
    kind = type(message)
    has_blob = kind in _HAS_BLOB
    fields = message[:-1] if has_blob else message
    for value, (name, wanted) in zip(fields, _SHAPES[kind], strict=False):
        if not _SENT[wanted](value):
            raise TypeError(f"{kind.__name__}.{name} is not of type {wanted}: {type(value).__name__}")
    text = "[" + ",".join([_json(field) for field in fields]) + "]"
    body = text.encode("utf-8", "surrogatepass")
    blob = message[-1] if has_blob else b""
    assert isinstance(blob, bytes)
    packet = _HEADER.pack(_NUMBERS[kind], len(body)) + body + blob
    if len(packet) > MAX_PACKET:
        raise PacketTooLarge(f"a {kind.__name__} message of {len(packet)} bytes; at most {MAX_PACKET} fit")
    return packet


def _json(field: object) -> str:
    """A field as JSON. ``json.dumps`` would build an encoder for each message, in pages that each sandbox's
    init then has for itself."""
    if isinstance(field, str):
        return str(encode_basestring(field))
    if isinstance(field, int):
        return int.__repr__(field)
    assert isinstance(field, tuple)
    return "[" + ",".join([encode_basestring(item) for item in field]) + "]"


def decode(packet: bytes | bytearray | memoryview, expected: frozenset[type]) -> Message:
    """The message in ``packet``, which must be one of ``expected``. Raises ``WireError``."""
    data = bytes(packet)
    if len(data) < _HEADER.size:
        raise WireError(f"a packet of {len(data)} bytes is no message")
    number, length = _HEADER.unpack_from(data)
    if not 1 <= number <= len(_KINDS):
        raise WireError(f"unknown kind of message {number}")
    kind = _KINDS[number - 1]
    if kind not in expected:
        names = ", ".join(sorted(one.__name__ for one in expected))
        raise WireError(f"got {kind.__name__}, expected one of {names}")
    end = _HEADER.size + length
    if end > len(data) or (end < len(data) and kind not in _HAS_BLOB):
        raise WireError(
            f"{kind.__name__} says {length} bytes of fields, the packet has {len(data) - _HEADER.size}"
        )
    fields = _fields(data[_HEADER.size : end], kind)
    if kind in _HAS_BLOB:
        fields.append(data[end:])
    message: Message = kind(*fields)
    return message


def _fields(body: bytes, kind: type) -> list[object]:
    try:
        text = body.decode("utf-8", "surrogatepass")
        fields, end = _scan(text, 0)
    except (ValueError, RecursionError, StopIteration) as error:
        raise WireError(f"{kind.__name__} cannot be read: {error}") from error
    if end != len(text):
        raise WireError(f"{kind.__name__} has something behind its fields")
    shape = _SHAPES[kind][:-1] if kind in _HAS_BLOB else _SHAPES[kind]
    if type(fields) is not list or len(fields) != len(shape):
        raise WireError(f"{kind.__name__} wants {len(shape)} fields")
    for position, (name, wanted) in enumerate(shape):
        if not _CHECKS[wanted](fields[position]):
            raise WireError(f"{kind.__name__}.{name} is not of type {wanted}")
        if type(fields[position]) is list:
            fields[position] = tuple(fields[position])
    return fields


def descriptors_in(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors in what recvmsg gave besides the data."""
    numbers = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
    return list(numbers)


#: Names of all messages, for documentation and tests.
KINDS = tuple(kind.__name__ for kind in _KINDS)
assert all(hasattr(messages, name) for name in KINDS)
