"""A WebSocket to a process that breaks off at every byte: no byte of the output is lost or comes twice, and
what is written is not sent twice."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import threading
from collections.abc import Callable
from typing import Any

import pytest

from nsbox.client import (
    ConnectionLost,
    Dropped,
    Exited,
    NotFound,
    Output,
    Reattached,
    Refused,
    Retries,
    ServerFailed,
    Started,
)
from nsbox.client.asynchronous.attached import AsyncAttached
from nsbox.client.attaching import Attaching
from nsbox.client.retries import Attempts
from nsbox.client.types import AttachEvent
from nsbox.client.types.command import read_process
from tests.unit.client.fakes import PROCESS, document, problem
from tests.unit.client.server import Seen, cutting
from tests.unit.client.test_cuts import async_client, client

CHUNKS = [(1, b"one\n"), (2, b"two\xc3"), (1, b"\xe2\x82"), (1, b"\xac")]
TEXT = {"stdout": "one\n\N{EURO SIGN}", "stderr": "two\N{REPLACEMENT CHARACTER}"}
ENDED = {**PROCESS, "status": "exited", "exitCode": 7, "outcome": "exited"}


def frame(opcode: int, data: bytes) -> bytes:
    assert len(data) < 65_536
    length = bytes((len(data),)) if len(data) < 126 else b"\x7e" + struct.pack(">H", len(data))
    return bytes((0x80 | opcode,)) + length + data


def told(kind: str, **members: Any) -> bytes:
    return frame(1, json.dumps({"type": kind, **members}).encode())


def output(channel: int, offset: int, data: bytes) -> bytes:
    return frame(2, struct.pack(">BQ", channel, offset) + data)


def closing(code: int, reason: str = "") -> bytes:
    return frame(8, struct.pack(">H", code) + reason.encode())


def accepted(seen: Seen) -> bytes:
    key = seen.headers["sec-websocket-key"].encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    lines = (
        b"HTTP/1.1 101 X",
        b"upgrade: websocket",
        b"connection: upgrade",
        b"sec-websocket-protocol: nsbox.v1",
        b"sec-websocket-accept: " + base64.b64encode(hashlib.sha1(key).digest()),
    )
    return b"\r\n".join(lines) + b"\r\n\r\n"


def log(seen: Seen) -> bytes:
    """As nsbox does, from the offset on that is asked for, which may be in the middle of a chunk."""
    if "/attach" not in seen.target:
        return document(PROCESS)
    begin, offset = int(seen.target.partition("offset=")[2]), 0
    data = accepted(seen) + told("started", process=PROCESS) + frame(9, b"ping")
    for channel, chunk in CHUNKS:
        behind = offset + len(chunk)
        if behind > begin:
            rest = chunk[max(begin - offset, 0) :]
            data += output(channel, behind - len(rest), rest)
        offset = behind
    return data + told("exit", process=ENDED) + closing(1000)


def check(events: list[AttachEvent]) -> None:
    outputs = [one for one in events if isinstance(one, Output)]
    assert b"".join(one.data for one in outputs) == b"".join(data for _, data in CHUNKS)
    for stream, text in TEXT.items():
        assert "".join(one.text for one in outputs if one.stream == stream) == text
    assert [type(one) for one in events if not isinstance(one, Output)] in (
        [Started, Exited],
        [Started, Reattached, Exited],
    )
    assert isinstance(events[-1], Exited)
    assert events[-1].process.exit_code == 7


def whole_length() -> int:
    return len(log(Seen("GET", "/attach?offset=0", {"sec-websocket-key": "x" * 24}, b"")))


def test_output_is_whole_wherever_the_connection_is_cut() -> None:
    with cutting(log) as server, client(server.url) as nsbox:
        process = nsbox.sandbox("sb_1").processes.get("cmd_1")
        for cut in range(whole_length() - 4):  # without the last 4, a good-bye, nothing is missing
            server.cuts = [cut]
            with process.attach() as attached:
                check(list(attached))
            assert attached.offset == 11


async def test_output_is_whole_for_tasks() -> None:
    with cutting(log) as server:
        async with async_client(server.url) as nsbox:
            process = await nsbox.sandbox("sb_1").processes.get("cmd_1")
            for cut in range(0, whole_length() - 4, 7):
                server.cuts = [cut]
                async with process.attach() as attached:
                    assert isinstance(attached, AsyncAttached)
                    check([event async for event in attached])


def process_of(reply: Callable[[Seen], bytes]) -> Any:
    return cutting(lambda seen: reply(seen) if "/attach" in seen.target else document(PROCESS))


def test_a_refusal_is_told() -> None:
    with process_of(lambda _: problem(404, "process_not_found")) as server, client(server.url) as nsbox:
        process = nsbox.sandbox("sb_1").processes.get("cmd_1")
        with pytest.raises(NotFound), process.attach():
            pass
        assert len(server.seen) == 2


def test_nsboxs_own_failure_is_told_and_its_replacement_is_waited_for() -> None:
    def reply(seen: Seen) -> bytes:
        code = "shutting_down" if len(server.seen) == 2 else "internal"
        trouble = {"status": 500, "code": code, "detail": "no"}
        head = accepted(seen) + told("started", process=PROCESS)
        return head + told("problem", problem=trouble) + closing(1011)

    with process_of(reply) as server, client(server.url) as nsbox:
        process = nsbox.sandbox("sb_1").processes.get("cmd_1")
        with pytest.raises(ServerFailed, match="internal"), process.attach() as attached:
            for event in attached:
                assert isinstance(event, (Started, Refused, Reattached))
        assert len(server.seen) == 3


def test_close_wakes_whoever_waits() -> None:
    quiet = threading.Event()

    def reply(seen: Seen) -> bytes:
        return accepted(seen) + told("started", process=PROCESS)

    with process_of(reply) as server, client(server.url) as nsbox:
        attached = nsbox.sandbox("sb_1").processes.get("cmd_1").attach()
        found: list[AttachEvent] = []

        def iterate() -> None:
            for event in attached:
                found.append(event)
                quiet.set()

        thread = threading.Thread(target=iterate)
        thread.start()
        assert quiet.wait(30)
        attached.close()
        thread.join(30)
        assert not thread.is_alive()
        assert [type(one) for one in found] == [Started]


def test_what_is_written_between_a_loss_and_its_being_told_is_an_error() -> None:
    """One thread has dropped the connection, and another was about to write to it."""

    def reply(seen: Seen) -> bytes:
        return accepted(seen) + told("started", process=PROCESS)

    with process_of(reply) as server, client(server.url) as nsbox:
        process = nsbox.sandbox("sb_1").processes.get("cmd_1")
        with process.attach() as attached:
            attached._drop()
            with pytest.raises(ConnectionLost):
                attached.write("ls")


# ---- without a socket


def begun(offset: int = 0) -> tuple[Attaching, list[AttachEvent]]:
    attaching = Attaching("/p", read_process(PROCESS), Attempts(Retries()), offset)
    return attaching, connect(attaching)


def connect(attaching: Attaching) -> list[AttachEvent]:
    request, socket = attaching.begin()
    asked = socket.ask("localhost", request.target, request.headers)
    lines = asked.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    return list(attaching.feed(accepted(Seen("GET", "/", headers, b"")) + told("started", process=PROCESS)))


def test_what_is_not_known_to_be_taken_is_told_and_not_sent_again() -> None:
    attaching, events = begun()
    assert [type(one) for one in events] == [Started]
    attaching.write(b"x" * 100)
    list(attaching.feed(told("stdin", taken=60)))
    attaching.lost(ConnectionLost("gone"))
    with pytest.raises(ConnectionLost):
        attaching.write(b"y")
    assert connect(attaching) == [Reattached(40)]
    assert attaching.answers() == b"", "nothing is sent by itself"
    attaching.lost(ConnectionLost("gone"))
    assert connect(attaching) == [Reattached(0)]


def test_there_is_room_for_what_nsbox_takes_and_no_more() -> None:
    attaching, _ = begun()
    sent = 0
    while room := attaching.room:
        attaching.write(b"x" * room)
        sent += room
    assert sent == 128 * 1024
    list(attaching.feed(told("stdin", taken=10)))
    assert attaching.room == 10


def test_the_size_of_the_terminal_is_told_again() -> None:
    attaching, _ = begun()
    assert attaching.resize(30, 90)
    attaching.lost(ConnectionLost("gone"))
    assert attaching.resize(31, 91) == b""
    connect(attaching)
    server, sent = _unmasked(attaching.answers()), {"type": "resize", "rows": 31, "columns": 91}
    assert json.loads(server) == sent


def _unmasked(data: bytes) -> bytes:
    mask, rest = data[2:6], data[6:]
    return bytes(one ^ mask[number % 4] for number, one in enumerate(rest))


def test_a_gap_is_told() -> None:
    attaching, _ = begun(5)
    found = list(
        attaching.feed(told("dropped", offset=5, until=9) + output(1, 9, b"abc") + output(1, 10, b"bcd"))
    )
    assert found == [Dropped(5, 9), Output("stdout", 9, b"abc", "abc"), Output("stdout", 12, b"d", "d")]
