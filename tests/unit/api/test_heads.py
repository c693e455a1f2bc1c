"""Heads of requests: what could be read in two ways is refused, and floods of fields cost next to nothing."""

from __future__ import annotations

import re
import time

import h11
import pytest

from nsbox.api.heads import MAX_FIELDS, StrictConnection
from tests.unit.api.client import running
from tests.unit.api.test_server import PATIENT, hang_up_after, lives, read_to_end

GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /healthz HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"

REFUSED = {
    "folded": (GET + b"A: b\r\n c\r\n\r\n", 400),
    "folded by a tab": (GET + b"A: b\r\n\tc\r\n\r\n", 400),
    "bare LF": (b"GET /healthz HTTP/1.1\nHost: x\n\n", 400),
    "one bare LF": (GET + b"A: b\nContent-Length: 5\r\n\r\n", 400),
    "length and chunks": (POST + b"Content-Length: 5\r\n" + CHUNKED + b"\r\n0\r\n\r\n", 400),
    "chunks and length": (POST + CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n", 400),
    "chunks in 1.0": (b"POST /healthz HTTP/1.0\r\nHost: x\r\n" + CHUNKED + b"\r\n0\r\n\r\n", 400),
    "two lengths": (POST + b"Content-Length: 0\r\nContent-Length: 5\r\n\r\n", 400),
    "a blank before the colon": (POST + b"Content-Length : 5\r\n\r\n", 400),
    "another version": (b"GET /healthz HTTP/1.2\r\nHost: x\r\n\r\n", 400),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "a method in lower case": (b"delete /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "many fields": (GET + b"a:\r\n" * (MAX_FIELDS + 1) + b"\r\n", 431),
    "many fields without an end": (GET + b"a:\r\n" * (MAX_FIELDS + 1), 431),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_is_read_in_two_ways_is_refused(case: str) -> None:
    """Also behind another request on the same connection, which is where it would be smuggled."""
    data, status = REFUSED[case]
    async with running(PATIENT) as server:
        for before in (b"", GET + b"\r\n"):
            async with hang_up_after(server, before + data) as stream:
                received = await read_to_end(stream)
            answers = re.findall(rb"HTTP/1\.1 (\d{3})", received)
            assert answers == ([b"200"] if before else []) + [b"%d" % status], received
        await lives(server)


async def test_what_is_usual_is_taken() -> None:
    fields = b"".join(b"A%d: b\r\n" % number for number in range(MAX_FIELDS - 5))
    async with running(PATIENT) as server:
        for data in (
            GET + fields + b"Connection: close\r\n\r\n",
            GET + b"Connection: close\r\nContent-Length: 19\r\n\r\n\n is:\r\n\tno head\r\n\r\n",
            b"GET /healthz HTTP/1.0\r\n\r\n",
        ):
            async with hang_up_after(server, data) as stream:
                received = await read_to_end(stream)
                assert received.startswith(b"HTTP/1.1 200"), (data, received)


def test_a_flood_of_fields_is_not_parsed() -> None:
    """What one head may cost, in any number of pieces: h11 alone takes some 60 ms for the whole of it."""
    head = GET + b"a:\r\n" * 8_000
    begun = time.process_time()
    for size in (len(head), 1_000):
        connection = StrictConnection(h11.SERVER, max_incomplete_event_size=32 * 1024)
        with pytest.raises(h11.RemoteProtocolError) as caught:
            for start in range(0, len(head), size):
                connection.receive_data(head[start : start + size])
                assert connection.next_event() is h11.NEED_DATA
        assert caught.value.error_status_hint == 431
    assert time.process_time() - begun < 1
