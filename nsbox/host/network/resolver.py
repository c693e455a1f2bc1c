"""The name server that sandboxes have: forwards questions that their policy allows, and sees the answers
first.

Who asks is known by the address, which the firewall holds to the link. For a list of names the answer's
addresses are in the firewall before the answer is on its way. It keeps no cache and invents nothing: what
it changes is the id.
"""

import os
import socket
import time
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from nsbox.host.network import dns

_PORT: Final = 53
_IP_FREEBIND: Final = 15  # linux/in.h; Python has no name for it
#: Questions that wait for an answer, in all and of one sandbox; the same for connections.
_WAITING, _WAITING_EACH = 1_024, 64
_CONNECTIONS, _CONNECTIONS_EACH = 128, 8
#: Seconds until the next server is asked, and until a question is given up.
_NEXT, _GIVE_UP = 2.0, 6.0
_LARGEST: Final = 65_535
#: Questions that are taken at once, before the loop looks at anything else.
_AT_ONCE: Final = 64


class Loop(Protocol):
    """Who calls when a descriptor can be read."""

    def add(self, descriptor: int, handler: Callable[[], None]) -> None: ...
    def remove(self, descriptor: int) -> None: ...


class Sandboxes(Protocol):
    """What the resolver asks about whoever asks it."""

    def slot_of(self, address: str) -> int | None: ...
    def may_resolve(self, slot: int, name: str) -> bool: ...
    def refused(self, slot: int, name: str) -> None: ...
    def answered(self, slot: int, name: str, found: list[dns.Answer]) -> None: ...


class _Waiting(NamedTuple):
    slot: int
    asked: dns.Question
    message: bytes
    client: tuple[str, int]
    upstream: socket.socket
    identity: int
    tried: int
    since: float


class Resolver:
    """UDP. Made in the network namespace, listening at ``address``."""

    def __init__(self, address: str, loop: Loop, who: Sandboxes, servers: Callable[[], list[str]]) -> None:
        self._loop, self._who, self._servers = loop, who, servers
        self._waiting: dict[int, _Waiting] = {}
        self._socket = socket.socket(
            socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        )
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        _bind(self._socket, address)
        self._per_slot: dict[int, int] = {}
        loop.add(self._socket.fileno(), self._receive)

    def _receive(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                message, client = self._socket.recvfrom(_LARGEST)
            except BlockingIOError:
                return
            except OSError:
                continue  # an error of an earlier answer, such as a port that is closed
            self._take(message, client)

    def _take(self, message: bytes, client: tuple[str, int]) -> None:
        slot = self._who.slot_of(client[0])
        if slot is None:
            return
        try:
            asked = dns.question(message)
        except dns.BadMessage:
            return
        if not self._who.may_resolve(slot, asked.name):
            self._who.refused(slot, asked.name)
            self._answer(dns.refusal(message, asked, dns.NXDOMAIN), client)
        elif len(self._waiting) >= _WAITING or self._per_slot.get(slot, 0) >= _WAITING_EACH:
            self._answer(dns.refusal(message, asked, dns.SERVFAIL), client)
        else:
            self._ask(slot, asked, message, client, 0, time.monotonic())

    def _ask(
        self,
        slot: int,
        asked: dns.Question,
        message: bytes,
        client: tuple[str, int],
        tried: int,
        since: float,
    ) -> None:
        """Each question has a socket of its own, so that a port is to be guessed besides the id."""
        servers = self._servers()
        upstream = None
        try:
            server = servers[tried % len(servers)]
            family = socket.AF_INET6 if ":" in server else socket.AF_INET
            upstream = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            upstream.connect((server, _PORT))
            identity = int.from_bytes(os.urandom(2), "big")
            upstream.send(identity.to_bytes(2, "big") + message[2:])
        except (OSError, IndexError, ZeroDivisionError):
            if upstream is not None:
                upstream.close()
            self._answer(dns.refusal(message, asked, dns.SERVFAIL), client)
            return
        number = upstream.fileno()
        self._waiting[number] = _Waiting(slot, asked, message, client, upstream, identity, tried, since)
        self._per_slot[slot] = self._per_slot.get(slot, 0) + 1
        self._loop.add(number, lambda: self._heard(number))

    def _heard(self, number: int) -> None:
        waiting = self._waiting[number]
        try:
            message = waiting.upstream.recv(_LARGEST)
            if not dns.is_answer_to(message, waiting.identity):
                return
            found = dns.answers(message, waiting.asked)
        except BlockingIOError:
            return
        except OSError:
            self._again(waiting)  # refused: at once to the next
            return
        except dns.BadMessage:
            return
        self._done(waiting)
        self._who.answered(waiting.slot, waiting.asked.name, found)
        self._answer(waiting.asked.id.to_bytes(2, "big") + message[2:], waiting.client)

    def _done(self, waiting: _Waiting) -> None:
        number = waiting.upstream.fileno()
        self._loop.remove(number)
        waiting.upstream.close()
        del self._waiting[number]
        left = self._per_slot[waiting.slot] - 1
        if left:
            self._per_slot[waiting.slot] = left
        else:
            del self._per_slot[waiting.slot]

    def _again(self, waiting: _Waiting) -> None:
        self._done(waiting)
        if waiting.tried + 1 >= max(2, len(self._servers())):
            self._answer(dns.refusal(waiting.message, waiting.asked, dns.SERVFAIL), waiting.client)
            return
        self._ask(
            waiting.slot, waiting.asked, waiting.message, waiting.client, waiting.tried + 1, time.monotonic()
        )

    def _answer(self, message: bytes, client: tuple[str, int]) -> None:
        try:
            self._socket.sendto(message, client)
        except OSError:
            pass  # the sandbox is gone, or does not read

    def look_at_time(self) -> bool:
        """Ask again what has waited too long; whether anything waits."""
        now = time.monotonic()
        for waiting in list(self._waiting.values()):
            if now - waiting.since > _NEXT:
                self._again(waiting)
        return bool(self._waiting)


class _Connection(NamedTuple):
    slot: int
    client: socket.socket
    since: float


class Stream:
    """TCP, for answers that UDP cut off: one question for each connection."""

    def __init__(self, address: str, loop: Loop, who: Sandboxes, servers: Callable[[], list[str]]) -> None:
        self._loop, self._who, self._servers = loop, who, servers
        self._open: dict[int, _Connection] = {}
        self._asking: dict[int, tuple[socket.socket, int]] = {}  # client → its upstream
        self._listener = socket.socket(
            socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        )
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _bind(self._listener, address)
        self._listener.listen(64)
        loop.add(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            client, address = self._listener.accept()
        except OSError:
            return
        slot = self._who.slot_of(address[0])
        each = sum(1 for one in self._open.values() if one.slot == slot)
        if slot is None or len(self._open) >= _CONNECTIONS or each >= _CONNECTIONS_EACH:
            client.close()
            return
        client.setblocking(False)
        number = client.fileno()
        self._open[number] = _Connection(slot, client, time.monotonic())
        self._loop.add(number, lambda: self._question(number))

    def _question(self, number: int) -> None:
        connection = self._open[number]
        message = _whole(connection.client)
        if message is None:
            return
        try:
            if not message or number in self._asking:
                raise dns.BadMessage("the client left, or asks twice")
            asked = dns.question(message)
            if not self._who.may_resolve(connection.slot, asked.name):
                self._who.refused(connection.slot, asked.name)
                _send(connection.client, dns.refusal(message, asked, dns.NXDOMAIN))
                raise dns.BadMessage("refused")
            self._ask(number, asked, message)
        except (dns.BadMessage, OSError, IndexError):
            self._close(number)

    def _ask(self, number: int, asked: dns.Question, message: bytes) -> None:
        server = self._servers()[0]
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        upstream = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        # The connection is made by pasta and answered at once; what takes time is the server's own.
        upstream.settimeout(0.5)
        try:
            upstream.connect((server, _PORT))
            _send(upstream, message)
            upstream.setblocking(False)
        except OSError:
            upstream.close()
            raise
        self._asking[number] = (upstream, upstream.fileno())
        self._loop.add(upstream.fileno(), lambda: self._answer(number, asked))

    def _answer(self, number: int, asked: dns.Question) -> None:
        connection, (upstream, _) = self._open[number], self._asking[number]
        message = _whole(upstream)
        if message is None:
            return
        try:
            if message:
                self._who.answered(connection.slot, asked.name, dns.answers(message, asked))
                _send(connection.client, message)
        except (dns.BadMessage, OSError):
            pass
        self._close(number)

    def _close(self, number: int) -> None:
        upstream = self._asking.pop(number, None)
        if upstream is not None:
            self._loop.remove(upstream[1])
            upstream[0].close()
        connection = self._open.pop(number)
        self._loop.remove(number)
        connection.client.close()

    def look_at_time(self) -> bool:
        now = time.monotonic()
        for number, one in list(self._open.items()):
            if now - one.since > _GIVE_UP:
                self._close(number)
        return bool(self._open)


def _bind(sock: socket.socket, address: str) -> None:
    """Also while the namespace does not have the address yet."""
    sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
    sock.bind((address, _PORT))


def _whole(sock: socket.socket) -> bytes | None:
    """The message when it is there whole; nothing yet is None, and no more is empty. Left in the buffer until
    then: level-triggered polling comes back."""
    try:
        head = sock.recv(_LARGEST + 2, socket.MSG_PEEK)
        if not head:
            return b""
        if len(head) < 2 or len(head) < 2 + int.from_bytes(head[:2], "big"):
            return None
        return sock.recv(2 + int.from_bytes(head[:2], "big"))[2:]
    except BlockingIOError:
        return None
    except OSError:
        return b""


def _send(sock: socket.socket, message: bytes) -> None:
    """With its length, or not at all: a client that does not read is not waited for."""
    packed = len(message).to_bytes(2, "big") + message
    if sock.send(packed) != len(packed):
        raise OSError("not read")
