"""The frames of a connection to a process: whatever a client sends, in whatever pieces, and whatever the
process writes."""

from __future__ import annotations

import json
import struct
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from nsbox.api.attach import WINDOW, _Session
from nsbox.api.exchange import Exchange
from nsbox.api.leaving import Leash
from nsbox.api.ongoing import Ongoing
from nsbox.host.logs import Piece, Stream
from nsbox.model.errors import Code, Problem
from nsbox.model.sandbox import Process
from nsbox.service.following import Gap

PLACE = ("sb_1", "cmd_1")


class Commands:
    """Takes stdin in pieces of its own choice."""

    def __init__(self, pieces: list[int]) -> None:
        self._pieces = pieces
        self.written = bytearray()
        self.did: list[Any] = []
        self.closed = self.gate = False

    async def write_stdin(self, owner: str, sandbox: str, key: str, data: bytes, patience: float) -> int:
        await trio.lowlevel.checkpoint()
        if self.closed:
            raise Problem(Code.STDIN_CLOSED, "closed")
        if self.gate:
            await trio.sleep_forever()
        taken = min(len(data), self._pieces.pop() if self._pieces else len(data))
        self.written += data[:taken]
        return taken

    async def close_stdin(self, owner: str, sandbox: str, key: str) -> None:
        await trio.lowlevel.checkpoint()
        self.did.append("close")

    async def resize(self, owner: str, sandbox: str, key: str, size: Any) -> None:
        await trio.lowlevel.checkpoint()
        self.did.append(("resize", size.rows, size.columns))

    async def signal(self, owner: str, sandbox: str, key: str, number: int) -> None:
        await trio.lowlevel.checkpoint()
        self.did.append(("signal", number))

    async def cut(self, sandbox: str, key: str) -> None:
        await trio.lowlevel.checkpoint()
        self.did.append("cut")


class Follower:
    """Gives ``found``, and waits for ever then unless ``ends``."""

    def __init__(self, found: list[Any], *, ends: bool) -> None:
        self._found, self._ends = list(found), ends

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    async def next(self) -> Any:
        await trio.lowlevel.checkpoint()
        if self._found:
            return self._found.pop(0)
        if not self._ends:
            await trio.sleep_forever()
        return None

    def process(self) -> Process:
        return Process(id="cmd_1", pid=2, kind="terminal", command="x", cwd="/", started_at=0.0)


class Wire:
    """The client's side. It leaves when it has said all and ``stays`` is over."""

    def __init__(self, said: list[bytes | str]) -> None:
        self._said = list(said)
        self.heard: list[dict[str, Any]] = []
        self.stays = trio.Event()

    async def receive(self) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        if not self._said:
            await self.stays.wait()
            return {"type": "http.disconnect"}
        message = self._said.pop(0)
        binary = isinstance(message, bytes)
        return {
            "type": "websocket.receive",
            "bytes": message if binary else None,
            "text": None if binary else message,
        }

    async def send(self, message: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        self.heard.append(message)

    def told(self, kind: str) -> list[Any]:
        texts = [json.loads(one["text"]) for one in self.heard if one.get("text")]
        return [one for one in texts if one["type"] == kind]

    @property
    def codes(self) -> list[int]:
        return [one["code"] for one in self.heard if one["type"] == "websocket.close"]


def session(wire: Wire, commands: Commands, follower: Follower, *, kill: bool = False) -> None:
    """One whole connection."""

    caller = cast("Any", SimpleNamespace(owner="us_ann", key=SimpleNamespace(id="key_1"), acting_for=None))
    keys = cast("Any", SimpleNamespace(caller=lambda key_id: caller))
    services: Any = SimpleNamespace(commands=commands)
    exchange = Exchange({}, wire.receive, wire.send)
    leash = Leash(services.commands, PLACE[0], exchange, kill=kill)
    leash.hold(PLACE[1])

    async def run() -> None:
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                one = _Session(services, Ongoing(keys), caller, PLACE, wire.receive, wire.send, leash)
                nursery.start_soon(one.run, follower)
                await trio.testing.wait_all_tasks_blocked()
                wire.stays.set()

    trio.run(run)


#: What a client may send: for stdin, of another channel, empty, and text of every kind.
_BINARY = st.one_of(st.binary(max_size=30).map(lambda data: b"\0" + data), st.binary(max_size=3))
_TEXT = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["null", "[]", "{}", "{", '{"type":1}', '{"type":"resize","rows":-1}']),
    st.builds(
        lambda rows, columns: json.dumps({"type": "resize", "rows": rows, "columns": columns}),
        st.integers(-(2**70), 2**70),
        st.integers(0, 5000),
    ),
    st.builds(
        lambda name: json.dumps({"type": "signal", "signal": name}), st.one_of(st.text(), st.integers())
    ),
)


@given(st.lists(st.one_of(_BINARY, _TEXT), max_size=12), st.lists(st.integers(1, 7), max_size=20))
def test_stdin_is_what_was_sent_for_it(said: list[bytes | str], pieces: list[int]) -> None:
    """Byte by byte and in order, up to the first message that is against the rules, and nothing of it ends
    the process or anybody else's connection."""
    wire, commands = Wire(said), Commands(pieces)
    session(wire, commands, Follower([], ends=False))
    wanted, broken = bytearray(), False
    for one in said:
        if isinstance(one, bytes) and not broken:
            broken = not one.startswith(b"\0")
            wanted += b"" if broken else one[1:]
    if broken:
        assert wire.codes == [1008]
        assert bytes(wanted).startswith(bytes(commands.written))
    else:
        assert wire.codes == []  # it has left; nobody is to be told
        assert commands.written == wanted
        taken = [one["taken"] for one in wire.told("stdin")]
        assert taken == sorted(taken)
        assert (taken or [0])[-1] == len(wanted)
    assert "cut" not in commands.did
    for size in [one for one in commands.did if one[0] == "resize"]:
        assert 1 <= size[1] <= 4096
        assert 1 <= size[2] <= 4096


@given(
    st.lists(
        st.one_of(
            st.builds(
                Piece,
                offset=st.integers(0, 2**63),
                stream=st.sampled_from(Stream),
                data=st.binary(min_size=1),
            ),
            st.builds(Gap, st.integers(0, 2**53), st.integers(0, 2**53)),
        ),
        max_size=10,
    )
)
def test_output_is_what_was_written(found: list[Any]) -> None:
    """Each frame tells whose it is, where it belongs and what it is; then the end, and a good-bye."""
    wire = Wire([])
    session(wire, Commands([]), Follower(found, ends=True))
    frames = [one["bytes"] for one in wire.heard if one.get("bytes") is not None]
    told = [(*struct.unpack(">BQ", frame[:9]), frame[9:]) for frame in frames]
    pieces = [one for one in found if isinstance(one, Piece)]
    assert told == [(1 + one.stream, one.offset, one.data) for one in pieces]
    gaps = [(one["offset"], one["until"]) for one in wire.told("dropped")]
    assert gaps == [(one.offset, one.until) for one in found if isinstance(one, Gap)]
    assert [len(wire.told(kind)) for kind in ("started", "exit")] == [1, 1]
    assert wire.codes == [1000]


def test_who_sends_more_than_is_taken_is_cut() -> None:
    commands = Commands([])
    commands.gate = True
    wire = Wire([b"\0" + bytes(WINDOW), b"\0x"])
    session(wire, commands, Follower([], ends=False))
    assert wire.codes == [1013]


@pytest.mark.parametrize("said", [[], [b"\1against the rules"]], ids=["left", "cut"])
def test_who_asked_for_it_takes_the_process_along(said: list[bytes | str]) -> None:
    commands = Commands([])
    session(Wire(said), commands, Follower([], ends=False), kill=True)
    assert commands.did == ["cut"]


def test_after_a_stdin_that_is_closed_the_rest_is_told_as_a_problem() -> None:
    wire, commands = Wire([b"\0one", '{"type":"closeStdin"}']), Commands([])
    session(wire, commands, Follower([], ends=False))
    assert (bytes(commands.written), commands.did) == (b"one", ["close"])
    commands.closed = True
    wire = Wire([b"\0two"])
    session(wire, commands, Follower([], ends=False))
    assert [one["problem"]["code"] for one in wire.told("problem")] == ["stdin_closed"]
