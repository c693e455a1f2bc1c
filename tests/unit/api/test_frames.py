"""WebSockets: whatever frames come, each connection ends with a word, and nothing grows meanwhile."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nsbox.api import websocket
from nsbox.api.server import serve
from nsbox.settings import Settings
from tests.unit.api.client import listening_socket
from tests.unit.api.test_server import WEBSOCKET, read_to_end, resident_bytes

SETTINGS = Settings(state_dir="/x", shutdown_grace_s=1, header_timeout_s=60, keep_alive_s=60)
PATH = "/api/v1/sandboxes/sb_1/processes/cmd_1/attach"
TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9
_MASK = b"\0\0\0\0"


def frame(
    opcode: int, data: bytes = b"", *, last: bool = True, mask: bool = True, bits: int = 0, length: int = -1
) -> bytes:
    length = len(data) if length < 0 else length
    first, masked = (0x80 if last else 0) | bits | opcode, 0x80 if mask else 0
    if length < 126:
        head = struct.pack(">BB", first, masked | length)
    elif length < 1 << 16:
        head = struct.pack(">BBH", first, masked | 126, length)
    else:
        head = struct.pack(">BBQ", first, masked | 127, length)
    return head + (_MASK if mask else b"") + data


def closed_with(code: int) -> bytes:
    return frame(CLOSE, struct.pack(">H", code))


VIOLATIONS: dict[str, tuple[bytes, int]] = {
    "not masked": (frame(TEXT, b"x", mask=False), 1002),
    "a reserved bit": (frame(TEXT, b"x", bits=0x40), 1002),
    "compressed without a word": (frame(TEXT, b"\xaa\x56\x2a\x02\x00", bits=0x40), 1002),
    "all reserved bits": (frame(TEXT, b"x", bits=0x70), 1002),
    "an opcode that is none": (frame(3, b"x"), 1002),
    "a control opcode that is none": (frame(15), 1002),
    "a long ping": (frame(PING, b"x" * 126), 1002),
    "a ping in pieces": (frame(PING, b"x", last=False), 1002),
    "a close of one byte": (frame(CLOSE, b"\3"), 1002),
    "a close with a code that is not for frames": (closed_with(1005), 1002),
    "a close with the code 0": (closed_with(0), 1002),
    "a close with the highest code": (closed_with(65535), 1002),
    "a close whose reason is no text": (frame(CLOSE, b"\x03\xe8\xff"), 1007),
    "a continuation of nothing": (frame(0, b"x"), 1002),
    "a message within a message": (frame(TEXT, b"x", last=False) + frame(TEXT, b"y"), 1002),
    "not UTF-8": (frame(TEXT, b"\xc0\xae"), 1007),
    "half a surrogate": (frame(TEXT, b"\xed\xa0\x80"), 1007),
    "a length below zero": (b"\x81\xff" + b"\xff" * 8 + _MASK, 1002),
    "a length longer than needed": (b"\x81\xfe\0\2" + _MASK + b"hi", 1002),
    "too large": (frame(BINARY, bytes(websocket.MAX_MESSAGE + 1)), 1009),
    "too large, and a close": (frame(BINARY, bytes(websocket.MAX_MESSAGE + 1)) + closed_with(1000), 1009),
    "too large, in pieces": (frame(TEXT, last=False) + frame(0, b"x" * 60_000, last=False) * 2, 1009),
    "endless empty pieces": (frame(TEXT, last=False) + frame(0, last=False) * 1_000, 1008),
    "more behind a close": (closed_with(1000) + b"\xff" * 1_000, 1000),
}


class Sink:
    """An application that takes in all that it is given, and knows when it is over."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.entered = self.left = 0
        self.may_accept = trio.Event()
        self.may_accept.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        self.entered += 1
        await receive()
        await self.may_accept.wait()
        await send({"type": "websocket.accept", "subprotocol": None})
        while (message := await receive())["type"] == "websocket.receive":
            self.messages.append(message)
        self.left += 1


@asynccontextmanager
async def sink() -> AsyncIterator[tuple[Sink, int]]:
    app, sock = Sink(), listening_socket()
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: serve(app, sock, SETTINGS, task_status=task_status))
        yield app, sock.getsockname()[1]
        nursery.cancel_scope.cancel()


def handshake(**more: str) -> bytes:
    told = "".join(f"{name}: {value}\r\n" for name, value in (WEBSOCKET | more).items())
    return f"GET {PATH} HTTP/1.1\r\nHost: x\r\n{told}\r\n".encode()


async def opened(port: int) -> trio.SocketStream:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(handshake())
    received = b""
    while b"\r\n\r\n" not in received:
        received += await stream.receive_some(1)
    assert received.startswith(b"HTTP/1.1 101")
    assert b"extensions" not in received.lower()
    return stream


def close_code(received: bytes) -> int:
    """Of the first close frame; what came before it must be whole frames."""
    while received:
        opcode, length = received[0] & 15, received[1]
        if opcode == CLOSE:
            return int.from_bytes(received[2:4], "big")
        received = received[2 + length :]
    raise AssertionError("no close frame")


@pytest.mark.parametrize("case", VIOLATIONS)
async def test_a_violation_ends_the_connection_with_its_code(
    case: str, caplog: pytest.LogCaptureFixture
) -> None:
    data, code = VIOLATIONS[case]
    async with sink() as (app, port):
        async with await opened(port) as stream:
            try:
                await stream.send_all(data)
            except trio.BrokenResourceError:
                pass
            assert close_code(await read_to_end(stream)) == code
        with trio.fail_after(10):
            while not app.left:
                await trio.sleep(0.01)
        assert app.messages == []
        (await opened(port)).socket.close()
    assert caplog.records == []


async def test_a_message_that_was_too_large_is_not_collected() -> None:
    """hypercorn tells so, and goes on writing what comes into the same buffer."""
    async with sink() as (app, port):
        async with await opened(port) as stream:
            await stream.send_all(frame(BINARY, length=1 << 62))
            before = resident_bytes()
            with trio.fail_after(30), pytest.raises(trio.BrokenResourceError):
                for _ in range(128):
                    await stream.send_all(bytes(1024 * 1024))
            assert resident_bytes() - before < 32 * 1024 * 1024
        assert app.messages == []


@pytest.mark.parametrize(
    "request_",
    [
        handshake(**{"Sec-WebSocket-Version": "7"}),
        handshake(**{"Content-Length": "5"}) + b"hello",
        handshake().replace(b"Sec-WebSocket-Key", b"X"),
        handshake().replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
    ids=["version", "body", "no key", "HTTP/1.0"],
)
async def test_a_refused_upgrade_ends_the_connection(request_: bytes) -> None:
    """Nobody need know a key for it: left open, it would have a place for ever."""
    async with sink() as (app, port):
        app.may_accept = trio.Event()
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(request_)
            assert (await read_to_end(stream)).startswith(b"HTTP/1.1 400")


async def test_an_application_whose_client_talks_too_early_is_told() -> None:
    async with sink() as (app, port):
        app.may_accept = trio.Event()
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(handshake() + frame(TEXT, b"early"))
            assert (await read_to_end(stream)).startswith(b"HTTP/1.1 400")
        app.may_accept.set()
        with trio.fail_after(10):
            while app.entered != app.left:
                await trio.sleep(0.01)


async def test_pieces_are_one_message_and_pings_are_answered() -> None:
    async with sink() as (app, port), await opened(port) as stream:
        pieces = (
            frame(TEXT, b"a", last=False) + frame(PING, b"p") + frame(0, b"b", last=False) + frame(0, b"c")
        )
        await stream.send_all(pieces * 3 + frame(BINARY) + closed_with(1001))
        received = await read_to_end(stream)
        assert received.count(b"\x8a\x01p") == 3
        assert close_code(received) == 1001
        assert [one["text"] for one in app.messages] == ["abc", "abc", "abc", None]
        assert app.messages[3]["bytes"] == b""


FRAMES = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.builds(
            frame,
            st.integers(0, 15),
            st.binary(max_size=200),
            last=st.booleans(),
            mask=st.booleans(),
            bits=st.sampled_from([0, 0, 0, 0x40, 0x70]),
        ),
        st.builds(frame, st.sampled_from([0, 1, 2]), st.binary(max_size=10), length=st.integers(0, 1 << 63)),
    ),
    max_size=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(FRAMES)
def test_whatever_is_sent_the_server_lives(frames: list[bytes]) -> None:
    async def attempt() -> None:
        async with sink() as (app, port):
            async with await opened(port) as stream:
                try:
                    await stream.send_all(b"".join(frames))
                    await stream.send_eof()
                except trio.BrokenResourceError:
                    pass
                await read_to_end(stream)
            with trio.fail_after(10):
                while app.entered != app.left:
                    await trio.sleep(0.005)
            (await opened(port)).socket.close()

    trio.run(attempt)


async def test_a_client_that_leaves_without_a_word_leaves_nothing_behind() -> None:
    """hypercorn keeps the connection until its next ping, 20 s later."""
    async with sink() as (app, port):
        async with await opened(port) as stream:
            await stream.send_eof()
            assert b"\x88" not in await read_to_end(stream)
        assert app.entered == app.left == 1


async def test_compression_is_not_taken_up() -> None:
    """Sixty bytes may unpack to any size."""
    async with sink() as (_, port), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(handshake(**{"Sec-WebSocket-Extensions": "permessage-deflate"}))
        received = b""
        while b"\r\n\r\n" not in received:
            received += await stream.receive_some(1)
        assert received.startswith(b"HTTP/1.1 101")
        assert b"extensions" not in received.lower()
