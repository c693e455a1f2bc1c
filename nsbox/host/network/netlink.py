"""netlink(7) messages as bytes, and sockets that send many of them at once.

pyroute2 takes 4 ms of processor for a plug, this 0.5 ms, most of it the kernel's (docs/adr/0041). A plug
happens for every sandbox; so what happens for every sandbox is encoded here.
"""

import os
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

NETLINK_ROUTE: Final = 0
NETLINK_NETFILTER: Final = 12

REQUEST: Final = 1
ACK: Final = 4
DUMP: Final = 0x300
CREATE: Final = 0x400
EXCLUSIVE: Final = 0x200
REPLACE: Final = 0x100
APPEND: Final = 0x800

_NESTED: Final = 0x8000
_ERROR, _DONE = 2, 3
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
#: How long an answer of the kernel may take, in seconds. A held RTNL lock is waited for; a lost answer is
#: not.
_PATIENCE = 20.0
_BUFFER = 1 << 20


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def nest(kind: int, *children: bytes) -> bytes:
    """An attribute made of others."""
    return attribute(kind | _NESTED, b"".join(children))


def be32(number: int) -> bytes:
    """netfilter's numbers are big-endian, the routing family's are not."""
    return struct.pack(">I", number)


def be64(number: int) -> bytes:
    return struct.pack(">Q", number)


def text(value: str) -> bytes:
    return value.encode("ascii") + b"\0"


def attributes(data: bytes | memoryview, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """The attributes in ``data``, as kind and payload. What is cut off ends the walk."""
    view = memoryview(data)
    while offset + 4 <= len(view):
        length, kind = _ATTRIBUTE.unpack_from(view, offset)
        if length < 4 or offset + length > len(view):
            return
        yield kind & 0x3FFF, bytes(view[offset + 4 : offset + length])
        offset += (length + 3) & ~3


class Request(NamedTuple):
    """A message to be sent: its type, flags beside REQUEST, and body."""

    kind: int
    flags: int
    body: bytes


class Received(NamedTuple):
    """A message that came."""

    kind: int
    sequence: int
    body: bytes


def messages(data: bytes | memoryview) -> Iterator[Received]:
    """The messages in a datagram."""
    view, offset = memoryview(data), 0
    while offset + _HEADER.size <= len(view):
        length, kind, _, sequence, _ = _HEADER.unpack_from(view, offset)
        if length < _HEADER.size or offset + length > len(view):
            return
        yield Received(kind, sequence, bytes(view[offset + _HEADER.size : offset + length]))
        offset += (length + 3) & ~3


class Refused(OSError):
    """The kernel refused one message of a batch; ``index`` says which."""

    def __init__(self, number: int, index: int) -> None:
        super().__init__(number, f"netlink: message {index}: {os.strerror(number)}")
        self.index = index


class Netlink:
    """A socket of one family in the network namespace this process is in when it is made; it stays there."""

    def __init__(self, family: int, groups: int = 0) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        self._socket.settimeout(_PATIENCE)
        self._socket.bind((0, groups))
        self._sequence = 0

    @classmethod
    def adopt(cls, descriptor: int) -> "Netlink":
        """The socket that a descriptor is, bound already, perhaps in another network namespace."""
        adopted = cls.__new__(cls)
        adopted._socket = socket.socket(fileno=descriptor)
        adopted._socket.settimeout(_PATIENCE)
        adopted._sequence = 0
        return adopted

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def receive(self) -> bytes:
        """A datagram that has come. Raises ``OSError``: ENOBUFS says that some were lost."""
        return self._socket.recv(1 << 16)

    def talk(self, requests: Iterable[Request], ignored: frozenset[int] = frozenset()) -> None:
        """Send all in one datagram and wait for each one's acknowledgement.

        Raises ``Refused`` for the first refused with an error that is not ``ignored``, when all are answered.
        """
        packed, first = bytearray(), self._sequence + 1
        for request in requests:
            self._sequence += 1
            packed += self._pack(request, REQUEST | ACK)
        self._socket.send(packed)
        waiting, refused = self._sequence - first + 1, None
        while waiting:
            for one in messages(self.receive()):
                if one.kind != _ERROR or one.sequence < first:
                    continue
                waiting -= 1
                number = -struct.unpack_from("=i", one.body)[0]
                if number and number not in ignored and refused is None:
                    refused = Refused(number, one.sequence - first)
        if refused is not None:
            raise refused

    def transact(self, subsystem: int, requests: list[Request]) -> None:
        """A batch of nfnetlink that holds as a whole or not at all. Raises ``Refused``.

        Acknowledged is the last message only: with success nothing else answers, and a refusal answers for
        the message that it is about (and, on some kernels, for others too).
        """
        first = self._sequence + 1
        marker = struct.pack(">BBH", 0, 0, subsystem)
        batch = [Request(0x10, 0, marker), *requests, Request(0x11, 0, marker)]
        packed = bytearray()
        for position, request in enumerate(batch):
            self._sequence += 1
            last = position == len(batch) - 2
            packed += self._pack(request, REQUEST | ACK if last else REQUEST)
        self._socket.send(packed)
        end = self._sequence - 1
        while True:
            for one in messages(self.receive()):
                if one.kind != _ERROR or one.sequence < first:
                    continue
                number = -struct.unpack_from("=i", one.body)[0]
                if number:
                    raise Refused(number, one.sequence - first - 1)
                if one.sequence == end:
                    return

    def dump(self, request: Request) -> Iterator[Received]:
        """All that the kernel has of something."""
        self._sequence += 1
        self._socket.send(self._pack(request, REQUEST | DUMP))
        while True:
            for one in messages(self.receive()):
                if one.sequence != self._sequence:
                    continue
                if one.kind == _DONE:
                    return
                if one.kind == _ERROR:
                    raise Refused(-struct.unpack_from("=i", one.body)[0], 0)
                yield one

    def _pack(self, request: Request, flags: int) -> bytes:
        body = request.body
        length = _HEADER.size + len(body)
        return _HEADER.pack(length, request.kind, request.flags | flags, self._sequence, 0) + body
