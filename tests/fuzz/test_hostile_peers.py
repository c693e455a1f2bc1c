"""Whoever sits at the other end of a socket says anything, with anything attached, in any order.

The readers of all processes are asked: api's (of init, agents and keeper), keeper's (of api and boxes),
init's (of api and of its spawners). Whatever comes, the reader gets a message of the kinds it expects or one
clean error; what was sent along is closed; what is remembered is bounded. ``NSBOX_FUZZ=N`` tries N times as
much.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nsbox.host import keeper as keeper_module
from nsbox.host.endpoint import Closed, Endpoint
from nsbox.host.keeper import KeeperLink
from nsbox.host.network import policy
from nsbox.inside import channel, commands, init, processes
from nsbox.inside.init import Init, Mould
from nsbox.keeper import core
from nsbox.keeper import main as keeper_main
from nsbox.kernel import capabilities, libc, rawsocket
from nsbox.model.errors import HostProblem, Problem
from nsbox.wire import messages as wire
from nsbox.wire.framing import MAX_PACKET, WireError, encode
from nsbox.wire.messages import (
    FROM_AGENT,
    FROM_BLANK,
    FROM_INIT,
    FROM_KEEPER,
    FROM_NETWORK,
    FROM_SPAWNER,
    PROTOCOL_VERSION,
    TO_AGENT,
    TO_BLANK,
    TO_INIT,
    TO_KEEPER,
    TO_NETWORK,
    TO_SPAWNER,
    Create,
    Destroyed,
    Exec,
    Freeze,
    Message,
    Welcome,
)
from tests.fuzz.descriptors import none_leaked
from tests.unit.host.inits import RunDir
from tests.unit.keeper.fakes import World, order
from tests.unit.wire.shapes import any_message, messages

_TIMES = int(os.environ.get("NSBOX_FUZZ") or 1)
_RARE = settings(
    derandomize="NSBOX_FUZZ" not in os.environ,  # a change is judged by what it changes, and not by luck
    max_examples=40 * _TIMES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
_OFTEN = settings(_RARE, max_examples=150 * _TIMES)

#: Numbers that are something to somebody: the kernel, C, JSON.
_numbers = st.sampled_from([0, 1, -1, 9, 255, 65_535, 65_536, 1 << 31, 1 << 32, (1 << 63) - 1, -(1 << 63)])
_json_values = st.recursive(
    st.none() | st.booleans() | _numbers | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


def framed(kind: int, body: bytes, length: int | None = None, blob: bytes = b"") -> bytes:
    return struct.pack("<BI", kind, len(body) if length is None else length) + body + blob


@st.composite
def _damaged(draw: st.DrawFn) -> bytes:
    """A message with a byte changed, cut off, doubled, or with another length than it says."""
    data = bytearray(encode(draw(any_message)))
    match draw(st.integers(0, 4)):
        case 0:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
        case 1:
            del data[draw(st.integers(1, len(data))) :]
        case 2:
            data = data + data
        case 3:
            data[1:5] = struct.pack("<I", draw(st.sampled_from([0, 1, 0xFFFF, 0x7FFF_FFFF, 0xFFFF_FFFF])))
        case 4:
            data[0] = draw(st.integers(0, 255))
    return bytes(data) or b"\0"


_packets = st.one_of(
    any_message.map(encode),
    _damaged(),
    st.binary(min_size=1, max_size=64),
    # well-framed, and of any shape that JSON has
    st.builds(
        lambda kind, value: framed(kind, json.dumps(value).encode("utf-8", "surrogatepass")),
        st.integers(0, 80),
        st.lists(_json_values, max_size=6),
    ),
    st.sampled_from(
        [
            framed(1, b"[" * 100_000),
            framed(1, b"[" + b"1" * 5_000 + b"]"),
            framed(1, b"[1e999]"),
            framed(1, b'["\\ud800"]'),
            framed(1, b"\xff\xfe"),
            framed(1, b"[NaN]"),
            framed(1, b"[1]" + b" " * 1_000),
        ]
    ),
)
#: How many descriptors go along; the kernel takes up to 253.
_attached = st.sampled_from([0, 0, 0, 1, 2, 6, 7, 40, 253])


@pytest.fixture(scope="module")
def spare() -> Iterator[list[int]]:
    """Descriptors to be sent: a device, pipes, a folder, sockets."""
    sockets = [socket.socket(), socket.socket(socket.AF_INET6), socket.socket(socket.AF_UNIX)]
    found = [os.open("/dev/null", os.O_RDWR), os.open("/", os.O_RDONLY), *os.pipe()]
    yield [*found, *(one.fileno() for one in sockets)]
    for descriptor in found:
        os.close(descriptor)
    for one in sockets:
        one.close()


def push(sock: Any, packet: bytes, spare: list[int], count: int) -> bool:
    """Send it, unless there is no room or nobody there."""
    rights = array.array("i", [spare[number % len(spare)] for number in range(count)])
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if count else []
    try:
        sock.sendmsg([packet], ancillary, socket.MSG_DONTWAIT)
    except (BlockingIOError, BrokenPipeError, ConnectionResetError):
        return False
    return True


# ---- the two readers


@_OFTEN
@given(
    packet=_packets,
    count=_attached,
    expected=st.sampled_from([
        TO_KEEPER, FROM_BLANK, FROM_NETWORK, TO_NETWORK, TO_BLANK, TO_INIT, FROM_SPAWNER, TO_SPAWNER,
        TO_AGENT,
    ]),
    peek=st.booleans(),
)  # fmt: skip
def test_keepers_and_inits_reader(
    spare: list[int], packet: bytes, count: int, expected: frozenset[type], peek: bool
) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, none_leaked():
        channel.prepare(theirs)
        assert push(theirs, packet, spare, count)
        read = channel.receive_alive if peek else channel.receive
        try:
            received = read(ours, expected)
        except WireError:
            return
        assert received is not None
        message, descriptors = received
        channel.close_all(descriptors)
        assert type(message) in expected


@_OFTEN
@given(packet=_packets, count=_attached, expected=st.sampled_from([FROM_INIT, FROM_AGENT, FROM_KEEPER]))
def test_apis_reader(spare: list[int], packet: bytes, count: int, expected: frozenset[type]) -> None:
    async def read() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel.prepare(theirs)
        endpoint = Endpoint(ours, expected)
        with theirs:
            try:
                assert push(theirs, packet, spare, count)
                with trio.fail_after(10):
                    message, descriptors = await endpoint.receive()
                channel.close_all(descriptors)
                assert type(message) in expected
            except Closed:
                pass
            finally:
                endpoint.close()

    async def main() -> None:
        with none_leaked():
            await read()

    trio.run(main)


# ---- api ← keeper


class _Asker:
    """Asks keeper for everything at once. What comes of it is an answer or a problem."""

    def __init__(self, link: KeeperLink) -> None:
        self.link = link

    async def run(self) -> None:
        link = self.link
        asked = (
            partial(link.create, order("sb_1")),
            partial(link.destroy, "sb_1"),
            partial(link.freeze, "sb_1"),
            partial(link.thaw, "sb_1"),
            partial(link.set_network, "sb_1", "{}"),
            partial(link.refusals, "sb_1"),
            link.audit,
        )
        async with trio.open_nursery() as nursery:
            for one in asked:
                nursery.start_soon(self._ask, one)

    async def _ask(self, question: Any) -> None:
        with contextlib.suppress(Problem):
            await question()


#: What fits what the asker asks for, and anything else that keeper may say.
_from_keeper = st.one_of(
    st.sampled_from(sorted(FROM_KEEPER, key=lambda kind: kind.__name__)).flatmap(messages),
    st.sampled_from(sorted(FROM_KEEPER, key=lambda kind: kind.__name__)).flatmap(
        lambda kind: messages(kind).map(
            lambda message: message._replace(
                **{name: "sb_1" for name in ("id", "key") if name in message._fields}
            )
        )
    ),
)


@_RARE
@given(said=st.lists(st.tuples(_from_keeper.map(encode) | _packets, _attached), max_size=12))
def test_api_hears_keeper(
    spare: list[int], tmp_path_factory: pytest.TempPathFactory, said: list[tuple[bytes, int]]
) -> None:
    folder = _short_folder(tmp_path_factory)

    async def main() -> None:
        run_dir = RunDir(str(folder))
        run_dir.listen("keeper")
        heard: list[object] = []
        link = KeeperLink(run_dir.descriptor, heard.append, heard.append)
        peer = run_dir.accept("keeper")
        await peer.send(Welcome(PROTOCOL_VERSION, (), ()))
        await link.greet()
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_until_closed, link)
                nursery.start_soon(_Asker(link).run)
                for packet, count in said:
                    push(peer.sock, packet, spare, count)
                    await trio.sleep(0)
                await trio.testing.wait_all_tasks_blocked()
                peer.close()
        assert not link._slots, "questions are remembered that nobody asks any more"
        link.close()
        run_dir.close()

    with none_leaked(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(keeper_module, "_PATIENCE", 0.5)
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.005))


async def _until_closed(link: KeeperLink) -> None:
    with contextlib.suppress(Closed):
        await link.listen()


def _short_folder(factory: pytest.TempPathFactory) -> Path:
    return factory.mktemp("run", numbered=True)


def test_a_keeper_that_greets_with_anything(
    spare: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = _short_folder(tmp_path_factory)

    @_RARE
    @given(said=st.lists(_from_keeper.map(encode) | _packets, min_size=1, max_size=4))
    def check(said: list[bytes]) -> None:
        async def main() -> None:
            run_dir = RunDir(str(folder))
            run_dir.listen("keeper")
            link = KeeperLink(run_dir.descriptor, lambda _: None)
            peer = run_dir.accept("keeper")
            for packet in said:
                push(peer.sock, packet, spare, 3)
            peer.close()
            with trio.fail_after(10), contextlib.suppress(HostProblem, Closed):
                await link.greet()
            link.close()
            run_dir.close()

        with none_leaked():
            trio.run(main)
        os.unlink(folder / "keeper.sock")

    check()


def test_what_could_not_be_asked_is_not_waited_for(tmp_path: Path) -> None:
    """A question that does not fit into a packet, and one whose asker left: the next is sent all the same."""

    async def main() -> None:
        run_dir = RunDir(str(tmp_path))
        run_dir.listen("keeper")
        link = KeeperLink(run_dir.descriptor, lambda _: None)
        peer = run_dir.accept("keeper")
        with pytest.raises(Exception, match="at most"):
            await link.set_network("sb_1", "x" * MAX_PACKET)
        with trio.CancelScope() as scope:
            scope.cancel()
            await link.destroy("sb_1")
        assert not link._slots
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_until_closed, link)
                nursery.start_soon(link.destroy, "sb_1")
                await peer.expect(wire.Destroy)
                await peer.send(Destroyed("sb_1"))
                await trio.testing.wait_all_tasks_blocked()
                peer.close()
        link.close()
        run_dir.close()

    trio.run(main)


# ---- keeper ← api, and ← boxes


def _extreme(kind: type) -> st.SearchStrategy[Any]:
    """Messages of a kind about ids that exist, or nearly, with numbers at their ends."""

    def changed(message: Any, number: int, name: str) -> Any:
        found = {field: number for field in message._fields if isinstance(getattr(message, field), int)}
        names = {field: name for field in ("id", "key", "command") if field in message._fields}
        return message._replace(**found, **names)

    return st.builds(changed, messages(kind), _numbers, st.sampled_from([_ID, "k", "", "\ud800", "x" * 300]))


_ID = "sb_" + "a" * 32
_to_keeper = st.sampled_from(sorted(TO_KEEPER, key=lambda kind: kind.__name__)).flatmap(
    lambda kind: messages(kind) | _extreme(kind)
)


@_RARE
@given(
    orders=st.lists(_to_keeper | st.just(Create(_ID, ("layer",), "h", 1, 2, 3, 4, "")), max_size=12),
    said=st.lists(st.tuples(_packets, _attached), max_size=6),
)
def test_keeper_hears_api_and_boxes(
    spare: list[int], orders: list[Message], said: list[tuple[bytes, int]]
) -> None:
    with none_leaked(), pytest.MonkeyPatch.context() as patch:
        world = World()
        patch.setattr(core.os, "waitpid", world.kernel.waitpid)
        for message in orders:
            for answer in world.obey(message):
                encode(answer)  # whatever was asked, the answer can be sent
            for box, (packet, count) in zip(world.pool.made, said, strict=False):
                if box.inside is not None and box.inside.fileno() >= 0 and box in world.watcher.watched:
                    push(box.inside, packet, spare, count)
                    world.keeper.hear(box)
        assert len(world.keeper._by_id) <= len(orders)
        world.close()


class _Api:
    """keeper's loop with one connection of api's; nothing else of keeper runs."""

    def __init__(self) -> None:
        self.loop = keeper_main.Loop.__new__(keeper_main.Loop)
        ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel.prepare(self.theirs)
        self.loop._handlers, self.loop._api = {}, None
        self.loop._poll = keeper_main.select.epoll()
        self.world = World()
        self.world.keeper._answer = self.loop.answer
        self.loop.keeper = self.world.keeper
        self.loop._listener = _OneConnection(ours)  # type: ignore[assignment]
        self.loop._accept()

    def close(self) -> None:
        self.loop._hang_up()
        self.loop._poll.close()
        self.theirs.close()
        self.world.close()


class _OneConnection:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def accept(self) -> tuple[socket.socket, str]:
        return self._sock, ""


def test_an_answer_that_is_too_long_costs_api_its_connection_only() -> None:
    """The id in an order may fill a packet, and the answer has more besides."""
    with none_leaked():
        api = _Api()
        room = MAX_PACKET - len(encode(Freeze("")))
        channel.send(api.theirs, Freeze("x" * room))
        api.loop._receive()
        assert api.loop._api is None
        api.close()


def test_an_api_that_does_not_read_costs_keeper_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_main, "_API_READS", (0, 50_000))
    with none_leaked():
        api = _Api()
        for _ in range(20_000):
            if api.loop._api is None:
                break
            api.loop.answer(Destroyed("x" * 1_000))
        assert api.loop._api is None
        api.close()


@_RARE
@given(value=_json_values)
def test_a_policy_of_any_shape(value: Any) -> None:
    for text in (json.dumps(value), json.dumps({"mode": "public", "allow": value, "ports": value})):
        with contextlib.suppress(ValueError):
            policy.parse(text)


# ---- init ← api, and ← its spawners


@pytest.fixture
def harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an init does to the processes that it sees would be done to those of this host."""

    def no_fork(*_: object) -> int:
        raise OSError(11, "no forks here")

    monkeypatch.setattr(commands.libc, "clone3", no_fork)
    monkeypatch.setattr(processes, "kill_all", lambda own: 0)
    monkeypatch.setattr(commands.os, "killpg", lambda *_: None)
    monkeypatch.setattr(init.dial, "begin", lambda *_: _no_dial())


def _no_dial() -> Any:
    raise OSError(111, "nothing listens here")


class _Sandbox:
    """An init with no sandbox around it, and its two neighbours."""

    def __init__(self) -> None:
        program = libc.Filter(struct.pack("<HBBI", 6, 0, 0, 0x7FFF_0000))
        self.init = Init(Mould(program, program, capabilities.Gone([], []), False))
        control, self.keeper = rawsocket.pair()
        listener = rawsocket.RawSocket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind("")
        listener.listen(4)
        self.listener = listener
        self.init.take(control, listener)
        self.init.begin()
        self.wakeup_end = init.signal.set_wakeup_fd(-1)

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel.prepare(sock)
        sock.connect(self.listener.getsockname())
        return sock

    def turn(self) -> None:
        """As long as there is something to see to: never wait."""
        while self.init._poll.poll(0):
            self.init.turn()

    def close(self) -> None:
        self.init._hang_up()
        self.init.close()
        self.keeper.close()
        os.close(self.wakeup_end)


_to_init = st.sampled_from(sorted(TO_INIT, key=lambda kind: kind.__name__)).flatmap(
    lambda kind: (messages(kind) | _extreme(kind)).map(encode)
)


@_RARE
@given(said=st.lists(st.tuples(_to_init | _packets, _attached), max_size=8))
def test_init_hears_api(spare: list[int], harmless: None, said: list[tuple[bytes, int]]) -> None:
    with none_leaked():
        box = _Sandbox()
        api = box.connect()
        box.turn()
        for packet, count in said:
            if not push(api, packet, spare, count):
                api.close()  # init hung up: api comes back
                api = box.connect()
                box.turn()
            box.turn()
        assert not box.init.commands._running
        assert not box.init.commands._kept
        api.close()
        box.turn()
        box.close()


def test_an_api_that_is_gone_before_it_is_greeted(harmless: None) -> None:
    with none_leaked():
        box = _Sandbox()
        box.connect().close()
        box.turn()
        again = box.connect()
        box.turn()
        assert again.recv(64)
        again.close()
        box.turn()
        box.close()


def test_an_answer_of_inits_that_is_too_long(harmless: None) -> None:
    with none_leaked():
        box = _Sandbox()
        api = box.connect()
        box.turn()
        room = MAX_PACKET - len(encode(wire.KillAll("")))
        channel.send(api, wire.KillAll("x" * room))
        box.turn()
        assert box.init._api is None
        api.close()
        box.close()


@_RARE
@given(said=st.lists(st.tuples(_packets, _attached), max_size=5), ordered=st.booleans())
def test_init_hears_a_spawner(
    spare: list[int], harmless: None, said: list[tuple[bytes, int]], ordered: bool
) -> None:
    """Which a tenant may have taken over: it has the ids of a user of the sandbox."""
    with none_leaked():
        box = _Sandbox()
        ours, theirs = rawsocket.pair()
        channel.prepare(theirs)
        one = commands.Spawner(1 << 22, ours, "", commands.users.ROOT)
        box.init.commands._spawners[one.pid] = one
        box.init.commands._put_away(one)
        box.init._watch(ours.fileno(), partial(box.init.commands._hear, one))
        if ordered:
            streams = [os.dup(spare[0]) for _ in range(3)]
            box.init.commands.start(Exec("k", ("true",), (), "", ""), streams)
        for packet, count in said:
            push(theirs, packet, spare, count)
            box.turn()
        theirs.close()
        box.turn()
        if ours.fileno() >= 0:
            ours.close()
        box.init.commands._settle(one)
        channel.close_all(box.init.commands._kept.pop("k", ()))
        box.close()
