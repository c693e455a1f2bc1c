"""Heads: what is read, what is refused, and that what is read is read as h11 reads it."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbox.proxy import head
from nsbox.proxy.head import MalformedError
from tests.acceptance.plugin import Say

_TOKEN = st.text("abcXYZ-_09!~", min_size=1, max_size=12)
_VALUE = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=30
)
_FRAMING = {"host", "content-length", "transfer-encoding", "connection", "upgrade"}

_CHUNKED = b"Transfer-Encoding: chunked\r\n"

REFUSED = {
    "nothing": b"\r\n\r\n",
    "no version": b"GET /\r\nHost: a\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\n",
    "two blanks": b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a tab": b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "a blank in the target": b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    "a NUL in the target": b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
    "bytes in the target": b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
    "a method that is none": b"GE(T / HTTP/1.1\r\nHost: a\r\n\r\n",
    "CONNECT": b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
    "a target without a path": b"GET a HTTP/1.1\r\nHost: a\r\n\r\n",
    "a target of another host": b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\nX: a\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    "two hosts, spelt": b"GET / HTTP/1.1\r\nHost: a\r\nhOsT: b\r\n\r\n",
    "a folded line": b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
    "a folded first line": b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    "a blank before the colon": b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    "no colon": b"GET / HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n",
    "an empty name": b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
    "a bare LF": b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
    "a bare CR": b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
    "a NUL in a value": b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
    "two lengths in one": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n",
    "a signed length": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
    "a negative length": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    "a length in hex": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\n",
    "an empty length": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
    "a huge length": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 40 + b"\r\n\r\n",
    "both": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "both, the other way": b"POST / HTTP/1.1\r\nHost: a\r\n" + _CHUNKED + b"Content-Length: 1\r\n\r\n",
    "gzip": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
    "gzip, chunked": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    "chunked, identity": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
    "chunked twice": b"POST / HTTP/1.1\r\nHost: a\r\n" + 2 * _CHUNKED + b"\r\n",
    "xchunked": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
    "chunked with a vertical tab": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
    "chunked in HTTP/1.0": b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    "too many fields": b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * 300 + b"\r\n",
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_be_read_in_two_ways_is_refused(name: str, figure: Say) -> None:
    with pytest.raises(MalformedError) as caught:
        head.request(REFUSED[name])
    assert caught.value.status in (400, 431, 501)
    figure(18, tried=1)


def test_a_request() -> None:
    told = head.request(
        b"POST /a?b=%20 HTTP/1.1\r\nHost: sb.localhost:8081\r\nContent-Length: 12\r\n"
        b"Connection: Keep-Alive, X-Mine\r\nX-Empty:\r\nX-Blanks: \t a b \t\r\n\r\n"
    )
    assert (told.method, told.target, told.minor, told.host, told.length) == (
        b"POST", b"/a?b=%20", 1, b"sb.localhost:8081", 12,
    )  # fmt: skip
    assert told.connection == {b"keep-alive", b"x-mine"}
    assert told.fields[-2:] == [(b"X-Empty", b""), (b"X-Blanks", b"a b")]
    assert told.keeps_alive


@pytest.mark.parametrize(
    ("line", "target"),
    [
        (b"GET http://a/x HTTP/1.1", b"/x"),
        (b"GET HTTP://A HTTP/1.1", b"/"),
        (b"GET http://a?x HTTP/1.1", b"/?x"),
        (b"OPTIONS * HTTP/1.1", b"*"),
    ],
)
def test_targets_in_other_forms(line: bytes, target: bytes) -> None:
    assert head.request(line + b"\r\nHost: a\r\n\r\n").target == target


def test_only_a_request_without_a_body_may_upgrade() -> None:
    asks = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
    assert head.request(asks + b"\r\n").upgrade == b"websocket"
    assert head.request(asks + b"Content-Length: 1\r\n\r\n").upgrade is None
    assert head.request(asks.replace(b"Connection: upgrade\r\n", b"") + b"\r\n").upgrade is None
    assert head.request(asks.replace(b"1.1", b"1.0") + b"\r\n").upgrade is None


def test_where_a_head_ends() -> None:
    assert head.end_of_head(b"GET / HTTP/1.1\r\nHost: a\r\n") == -1
    assert head.end_of_head(b"GET / HTTP/1.1\r\n\r\nrest") == 18
    for buffer in (b"GET / HTTP/1.1\n\n", b"x" * (head.MAX_HEAD + 1), b"x" * head.MAX_HEAD + b"yy\r\n\r\n"):
        with pytest.raises(MalformedError):
            head.end_of_head(buffer)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for read in (head.request, head.response):
        try:
            read(data + b"\r\n\r\n")
        except MalformedError:
            pass


@given(
    _TOKEN,
    st.text("/abc?&=%20", max_size=20),
    st.lists(st.tuples(_TOKEN.filter(lambda name: name.lower() not in _FRAMING), _VALUE), max_size=6),
    st.sampled_from(["", "Content-Length: 7\r\n", "Transfer-Encoding: chunked\r\n", "Connection: close\r\n"]),
)
def test_what_is_read_is_read_as_h11_does(
    method: str, path: str, fields: list[tuple[str, str]], framing: str
) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    text = f"{method} /{path} HTTP/1.1\r\nHost: a\r\n{framing}{lines}\r\n".encode("latin-1")
    try:
        ours = head.request(text)
    except MalformedError:
        return
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(text)
    theirs = connection.next_event()
    assert isinstance(theirs, h11.Request)
    assert (ours.method, ours.target) == (theirs.method, theirs.target)
    ignored = (b"content-length", b"transfer-encoding")
    got = [(name.lower(), value) for name, value in ours.fields if name.lower() not in ignored]
    assert got == [(name, value) for name, value in theirs.headers if name not in ignored]
    assert (ours.length is None) == ("chunked" in framing)


@pytest.mark.parametrize(
    "text",
    [
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 99 no\r\n\r\n",
        b"HTTP/1.1 2000 no\r\n\r\n",
        b"HTTP/1.1 200\tOK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\n b\r\n\r\n",
        b"hello\r\n\r\n",
    ],
)
def test_answers_that_are_refused(text: bytes) -> None:
    with pytest.raises(MalformedError):
        head.response(text)


def test_an_answer() -> None:
    told = head.response(b"HTTP/1.0 204\r\nConnection: close\r\n\r\n")
    assert (told.status, told.reason, told.minor, told.length, told.chunked) == (204, b"", 0, None, False)
    assert head.response(b"HTTP/1.1 200 \xc3\xa9t\xc3\xa9\r\nContent-Length: 5\r\n\r\n").length == 5
