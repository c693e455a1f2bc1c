"""What an init does that somebody has taken over. It runs in process 1 of a real sandbox.

``tests/e2e/test_hostile_sandboxes.py`` copies this file into a copy of the sources, as
``nsbox/inside/hostile.py``, and has that copy's init call ``take_over`` when it is told to run a command of a
certain name: until then it is an init like all others. From then on it speaks as it likes to api, to keeper
and, as file agents, to api again.
"""

from __future__ import annotations

import array
import json
import os
import random
import select
import socket
import stat
import struct
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from nsbox.kernel import rawsocket
from nsbox.wire import messages as wire
from nsbox.wire.framing import MAX_PACKET, WireError, decode, encode

if TYPE_CHECKING:
    from nsbox.inside.init import Init

#: The command that takes an init over: KIND SEED.
COMMAND = "/nsbox-test-take-over"
#: How often it speaks without being asked, and every how many milliseconds. Then only when it is.
_UNASKED, _TICK_MS = 60, 50
_FLOODS, _FLOOD_MS = 20_000, 1
_NUMBERS = (0, 1, -1, 0x7F, 0xFFFF, 1 << 31, (1 << 63) - 1, -(1 << 63))
#: Kinds whose descriptors wait.
_WAITING = ("rights", "waiting")
_CMSG_ROOM = socket.CMSG_SPACE(253 * 4)

Said = tuple[bytes, list[int]]


def take_over(init: Init, order: wire.Exec, descriptors: list[int]) -> None:
    """Do not return, if that is the order."""
    if order.argv[:1] == (COMMAND,):
        Hostile(init, order.argv[1], int(order.argv[2]), descriptors).run(order)


class Hostile:
    """Answers each packet with a volley of its kind, and for a while speaks without being asked."""

    def __init__(self, init: Init, kind: str, seed: int, streams: list[int]) -> None:
        self._streams = streams  # with them, the ends of pipes that api takes for its own
        self._random = random.Random(seed)
        self._volley: Callable[[str, Any], Iterator[Said]] = getattr(self, f"_{kind}")
        self._kind = kind
        self._deaf = kind in ("flood", "half")
        assert init._api is not None
        self._api, self._control, self._listener = init._api, init._control, init._listener
        self._peers: dict[int, Any] = {}
        self._poll = select.poll()
        self._spare: list[int] = []

    def run(self, order: wire.Exec) -> NoReturn:
        try:
            for sock in (self._api, self._control, self._listener):
                self._add(sock)
            self._speak(self._control, "", None)
            self._speak(self._api, order.key, order)
            left, tick = (_FLOODS, _FLOOD_MS) if self._kind == "flood" else (_UNASKED, _TICK_MS)
            if self._kind == "begun":
                left = 0  # it waits for an api that takes over
            while True:
                heard = self._poll.poll(tick if left else None)
                for descriptor, _ in heard:
                    self._hear(self._peers[descriptor])
                if left and not heard:
                    others = [one for one in self._peers.values() if one is not self._listener]
                    for sock in others:
                        self._speak(sock, "", None)
                    left = left - 1 if len(others) > 1 else 0  # who has been hung up on rests
        except BaseException as error:
            sys.stderr.write(f"hostile init: {error!r}\n")
            raise
        finally:
            os._exit(1)

    def _add(self, sock: Any) -> None:
        sock.setblocking(False)
        self._peers[sock.fileno()] = sock
        self._poll.register(sock.fileno(), select.POLLIN)

    def _drop(self, sock: Any) -> None:
        if self._peers.pop(sock.fileno(), None) is not None:
            self._poll.unregister(sock.fileno())
            sock.close()

    def _hear(self, sock: Any) -> None:
        if sock is self._listener:
            connection = rawsocket.accept(sock)
            self._add(connection)
            if self._kind == "begun":
                connection.setblocking(True)  # all of it: half a greeting is another kind
                self._speak(connection, "", None)
                connection.setblocking(False)
            return
        if self._deaf and sock is not self._control:
            self._poll.unregister(sock.fileno())  # whatever comes, it stays there
            return
        try:
            data, ancillary, _, _ = sock.recvmsg(MAX_PACKET, _CMSG_ROOM)
        except BlockingIOError:
            return
        except OSError:
            data, ancillary = b"", []
        for _, _, rights in ancillary:
            for descriptor in array.array("i", rights):
                os.close(descriptor)
        if not data:
            if sock is self._control:
                os._exit(0)  # keeper is gone
            self._drop(sock)
            return
        try:
            message: Any = decode(data, wire.TO_INIT | wire.TO_AGENT)
        except WireError:
            message = None
        key = getattr(message, "key", "")
        self._speak(sock, key, message)

    def _speak(self, sock: Any, key: str, message: Any) -> None:
        try:
            volley = self._to_keeper if sock is self._control and self._kind in _WAITING else self._volley
            for data, descriptors in volley(key, message):
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
                sock.sendmsg([data], rights if descriptors else [])
        except OSError as error:
            self._disarm()
            if sock is not self._control and not isinstance(error, BlockingIOError):
                self._drop(sock)
        finally:
            for descriptor in self._spare:  # the receiver has it alone then
                os.close(descriptor)
            self._spare.clear()

    def _disarm(self) -> None:
        """What was not sent would hold up ourselves."""
        for descriptor in self._spare:
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                sock = socket.socket(fileno=os.dup(descriptor))
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()

    # ---- kinds

    def _garbage(self, key: str, message: Any) -> Iterator[Said]:
        yield self._random.randbytes(self._random.choice([1, 5, 64, 4_096, 300_000])), []

    def _frames(self, key: str, message: Any) -> Iterator[Said]:
        """The lengths are right."""
        for _ in range(3):
            body = self._random.randbytes(self._random.choice([0, 2, 100]))
            yield struct.pack("<BI", self._random.randrange(1, 70), len(body)) + body, []

    def _liar(self, key: str, message: Any) -> Iterator[Said]:
        """Messages that init may send, and some that it may not: of other kinds, ids, counts, orders."""
        for _ in range(self._random.randrange(1, 5)):
            said = encode(self._random.choice(self._words(key)))
            for _ in range(self._random.choice([1, 1, 2, 20])):
                yield said, []

    def _words(self, key: str) -> list[wire.Message]:
        rnd = self._random
        key = rnd.choice([key, key, key, "cmd_nobodys", "x" * 1_000, "\ud800"])
        number, other = rnd.choice(_NUMBERS), rnd.choice(_NUMBERS)
        words: list[wire.Message] = [
            wire.Started(key, number),
            wire.Started(key, 7),
            wire.Exited(key, number, other, number, other, number),
            wire.Exited(key, 0, 1, 1, 1, 0),
            wire.Killed(key, number),
            wire.Refused(key, rnd.choice(["fork", "user", "cwd", "path", "\ud800"]), number, "\ud800" * 9),
            wire.Measured(key, (f"{key[:60]} {number} {other}", "x" * 3_000, "")),
            wire.Attached(number, other),
            wire.Running(key, number, ("\ud800",), "\ud800", other),
        ]
        if rnd.random() < 0.02:
            words = [
                wire.Created(key, ("cpu",), "/"), wire.Gone(key, number), wire.Ready(key),
                wire.Failed(key, "x", 0, ""), wire.Welcome(wire.PROTOCOL_VERSION, (), (key,)),
                wire.Done(number), wire.Entries(("[]",), 1, 0),
            ]  # fmt: skip
        return words

    def _flood(self, key: str, message: Any) -> Iterator[Said]:
        """As much as there is room for, again and again, and nothing is read."""
        said = encode(wire.Exited("k" * 2_000, 0, 0, 0, 0, 0))
        while True:
            yield said, []

    def _half(self, key: str, message: Any) -> Iterator[Said]:
        """Half a message, once; then nothing is said or read any more."""
        if key:
            yield encode(wire.Started(key, 1))[:9], []

    def _rights(self, key: str, message: Any) -> Iterator[Said]:
        """Descriptors where there should be none, too many, of the wrong kinds, and such as wait."""
        for _ in range(4):
            said = self._random.choice([
                wire.Exited(key, 0, 0, 0, 0, 0), wire.Started(key, 5), wire.Dialled(key),
                wire.AgentReady(key), wire.Killed(key, 1), wire.Ready(""),
            ])  # fmt: skip
            count = self._random.choice([1, 1, 1, 2, 6, 7, 40])
            yield encode(said), [self._some() for _ in range(count)]

    def _waiting(self, key: str, message: Any) -> Iterator[Said]:
        """Fitting answers; the agents and ports that come with them would hold up who closes them."""
        if isinstance(message, wire.Agent | wire.Dial):
            said = wire.AgentReady(key) if isinstance(message, wire.Agent) else wire.Dialled(key)
            yield encode(said), [self._random.choice([self._lingering, self._nested])()]
        else:
            yield from self._honest(key, message)

    def _begun(self, key: str, message: Any) -> Iterator[Said]:
        """To an api that has just started: commands that an earlier one began, by its words."""
        if message is not None:
            yield from self._honest(key, message)
            return
        rnd = self._random
        count = rnd.choice([1, 3, 300])
        yield encode(wire.Attached(wire.PROTOCOL_VERSION, count)), []
        for _ in range(count):
            mine = f"cmd_{rnd.randbytes(10).hex()}"
            argv = rnd.choice([("\ud800",), ("x" * 2_000,) * 9, ("a", "b\udcff")])
            said = wire.Running(
                mine, rnd.choice(_NUMBERS), argv, rnd.choice(["/", "\ud800"]), rnd.choice(_NUMBERS)
            )
            yield encode(said), self._streams[3:5]

    def _to_keeper(self, key: str, message: Any) -> Iterator[Said]:
        """Both ends of connections that linger: when this process is dead, nobody but keeper has them, and
        whichever it closes first. All of it fits its queue, unread."""
        for first in (0, 1):
            ends = self._both_ends()
            for end in (ends[first], ends[1 - first]):
                yield encode(wire.Ready("")), [end]

    def _agents(self, key: str, message: Any) -> Iterator[Said]:
        """An init like others, but for its file agents, whom it plays itself."""
        if isinstance(message, wire.Agent):
            ours, theirs = rawsocket.pair()
            self._add(ours)
            yield encode(wire.AgentReady(key)), [self._kept(theirs.detach())]
        elif type(message) in wire.TO_AGENT:
            yield from self._as_agent(message)
        else:
            yield from self._honest(key, message)

    def _honest(self, key: str, message: Any) -> Iterator[Said]:
        match message:
            case wire.Exec():
                yield encode(wire.Started(key, 5)), []
                yield encode(wire.Exited(key, 0, 0, 0, 0, 0)), []
            case wire.Signal() | wire.KillAll():
                yield encode(wire.Killed(key, 1)), []
            case wire.Measure():
                yield encode(wire.Measured(key, ())), []
            case wire.Agent() | wire.Dial():
                yield encode(wire.Refused(key, "fork", 11, "no")), []

    def _as_agent(self, message: Any) -> Iterator[Said]:
        rnd = self._random
        count = rnd.choice([0, 1, 1, 1, 1, 1, 2, 7])
        match message:
            case wire.Read():
                yield (
                    encode(wire.Opened(rnd.choice(_NUMBERS), rnd.choice(_NUMBERS), 0)),
                    [self._some() for _ in range(count)],
                )
            case wire.Write():
                yield encode(wire.Writing("")), [self._some() for _ in range(count)]
            case wire.Scan():
                yield from self._listing()
            case _:
                yield encode(rnd.choice([
                    wire.Done(rnd.choice(_NUMBERS)), wire.Opened(1, 1, 1), wire.Entries((), 1, 0),
                    wire.Refused("", rnd.choice(["path", "type", "\ud800"]), rnd.choice(_NUMBERS), "\ud800"),
                ])), []  # fmt: skip

    def _listing(self) -> Iterator[Said]:
        """Empty parts without end, rows as long as packets, and rows that are none."""
        name = "n" * (300 * 1024)
        row = json.dumps([name, 0o100000, 1, 0o644, 0, 0, 0, None])
        odd = [
            "[]",
            "{",
            "[[],[],[],[],[],[],[],[]]",
            '["\\ud800",1,1e308,1,1,1,1,1]',
            "9" * 5_000,
            "[" * 9_000,
        ]
        match self._random.randrange(3):
            case 0:
                yield encode(wire.Entries((), 1, 0)), []
            case 1:
                yield encode(wire.Entries((row,), 1, 0)), []
            case _:
                yield encode(wire.Entries((self._random.choice(odd),), self._random.randrange(2), 0)), []

    # ---- descriptors

    def _kept(self, descriptor: int) -> int:
        self._spare.append(descriptor)
        return descriptor

    def _some(self) -> int:
        return self._random.choice([
            self._lingering, self._nested, self._memory, self._pipe, self._folder, self._path,
            self._listening,
        ])()  # fmt: skip

    def _memory(self) -> int:
        return self._kept(os.memfd_create("hostile"))

    def _pipe(self) -> int:
        reader, writer = os.pipe()
        os.close(writer)
        return self._kept(reader)

    def _folder(self) -> int:
        return self._kept(os.open("/", os.O_RDONLY | os.O_DIRECTORY))

    def _path(self) -> int:
        return self._kept(os.open("/etc/passwd", os.O_PATH))

    def _listening(self) -> int:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.bind("")
        sock.listen(1)
        return self._kept(sock.detach())

    def _lingering(self) -> int:
        """Whoever closes it last waits for its data to be taken, for an hour, and nobody takes it."""
        one, other = self._both_ends()
        self._spare.remove(other)  # this process keeps it, unread
        return one

    def _both_ends(self) -> tuple[int, int]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            one = socket.create_connection(listener.getsockname())
            other, _ = listener.accept()
        one.setblocking(False)
        try:
            while True:
                one.send(bytes(65_536))
        except BlockingIOError:
            pass
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3_600))
        return self._kept(one.detach()), self._kept(other.detach())

    def _nested(self) -> int:
        """One that would do for an agent, with one that waits in its queue."""
        ours, theirs = rawsocket.pair()
        rights = array.array("i", [self._lingering()])
        ours.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        ours.close()
        return self._kept(theirs.detach())
