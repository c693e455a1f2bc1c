from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbox.proxy.bodies import Chunked, Endless, Sized
from nsbox.proxy.head import MalformedError
from nsbox.proxy.rewrite import NO_TRAILERS


def chunked(chunks: list[bytes], trailers: bytes = b"") -> bytes:
    return (
        b"".join(b"%x;a=b\r\n%s\r\n" % (len(one), one) for one in chunks if one)
        + b"0\r\n"
        + trailers
        + b"\r\n"
    )


@given(
    st.lists(st.binary(max_size=50), max_size=5),
    st.lists(st.integers(1, 60), max_size=12),
    st.binary(max_size=20),
)
def test_the_end_is_found_wherever_it_is_cut(chunks: list[bytes], cuts: list[int], behind: bytes) -> None:
    whole = chunked(chunks, b"X-Sum: 1\r\n")
    data, body, taken = whole + behind, Chunked(NO_TRAILERS), 0
    for cut in [*cuts, len(data)]:
        if body.done:
            break
        piece = data[taken : taken + cut]
        taken += body.feed(memoryview(piece))
    assert body.done
    assert taken == len(whole)


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b"g\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b"0x1\r\n",
        b" 1\r\n",
        b"1_0\r\n",
        b"1\n",
        b"1\r\nab",
        b"1\r\na\n\n",
        b"1\r\na\r\r",
        b"1;a\nb\r\n",
        b"1;a\x00\r\n",
        b"1" * 16 + b"\r\n",
        b"1;" + b"a" * 5000,
        b"0\r\nX : a\r\n",
        b"0\r\n folded\r\n",
        b"0\r\nHost: a\r\n",
        b"0\r\nX_Forwarded_For: a\r\n",
        b"0\r\nAuthorization: a\r\n",
        b"0\r\nContent-Length: 1\r\n",
        b"0\r\n" + b"X: " + b"a" * 4000 + b"\r\n" + (b"X: " + b"a" * 3000 + b"\r\n") * 9,
    ],
)
def test_malformed_chunks(data: bytes) -> None:
    with pytest.raises(MalformedError):
        Chunked(NO_TRAILERS).feed(memoryview(data))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_body_or_refused(data: bytes) -> None:
    body = Chunked()
    try:
        used = body.feed(memoryview(data))
    except MalformedError:
        return
    assert 0 <= used <= len(data)
    assert body.done or used == len(data)


def test_a_body_of_known_length() -> None:
    body = Sized(5)
    assert body.feed(memoryview(b"abc")) == 3
    assert not body.done
    assert body.feed(memoryview(b"defg")) == 2
    assert body.done
    assert Sized(0).done


def test_a_body_without_an_end() -> None:
    body = Endless()
    assert body.feed(memoryview(b"abc")) == 3
    assert not body.done
