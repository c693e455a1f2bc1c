"""DNS messages: whatever comes, the answer is a value or BadMessage."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbox.host.network import dns


def query(name: str, kind: int = 1, identity: int = 7, flags: int = 0x0100) -> bytes:
    labels = b"".join(bytes([len(one)]) + one.encode() for one in name.split(".") if one)
    head = identity.to_bytes(2, "big") + flags.to_bytes(2, "big") + b"\0\1\0\0\0\0\0\0"
    return head + labels + b"\0" + kind.to_bytes(2, "big") + b"\0\1"


def response(name: str, *records: tuple[int, int, bytes], kind: int = 1) -> bytes:
    asked = query(name, kind, flags=0x8180)
    body = b"".join(
        b"\xc0\x0c"
        + one.to_bytes(2, "big")
        + b"\0\1"
        + ttl.to_bytes(4, "big")
        + len(data).to_bytes(2, "big")
        + data
        for one, ttl, data in records
    )
    return asked[:6] + len(records).to_bytes(2, "big") + asked[8:] + body


def test_a_question() -> None:
    asked = dns.question(query("WWW.Example.COM"))
    assert (asked.id, asked.name, asked.kind) == (7, "www.example.com", 1)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\0" * 12,
        query("a.b")[:-1],
        query("a.b", flags=0x8100),  # an answer
        query("a.b", flags=0x2900),  # another opcode
        query("a.b")[:4] + b"\0\2" + query("a.b")[6:],  # two questions
        query("a.b")[:12] + b"\xc0\x0c\0\1\0\1",  # a pointer in the question
        query("a.b")[:-1] + b"\3",  # another class
        query(".".join(["a" * 63] * 5)),  # too long
    ],
)
def test_what_is_no_question(message: bytes) -> None:
    with pytest.raises(dns.BadMessage):
        dns.question(message)


def test_a_dot_in_a_label_makes_no_other_name() -> None:
    head, tail = query("x")[:12], b"\0\1\0\1"
    asked = dns.question(head + b"\x0bexample.com\0" + tail[0:4])
    assert asked.name == "example\\046com"


def test_addresses_of_an_answer() -> None:
    asked = dns.question(query("a.b"))
    found = dns.answers(response("a.b", (5, 60, b"\0"), (1, 30, b"\1\2\3\4"), (1, 9, b"bad")), asked)
    assert found == [dns.Answer(b"\1\2\3\4", 30)]


def test_an_answer_to_something_else_is_none() -> None:
    with pytest.raises(dns.BadMessage):
        dns.answers(response("c.d", (1, 30, b"\1\2\3\4")), dns.question(query("a.b")))


def test_a_refusal_has_the_question_and_no_answer() -> None:
    message = query("a.b", identity=0x1234)
    told = dns.refusal(message, dns.question(message), dns.NXDOMAIN)
    assert told[:2] == b"\x12\x34"
    assert told[3] & 0x0F == dns.NXDOMAIN
    assert told[12:] == message[12:]
    assert dns.answers(told, dns.question(message)) == []


@given(st.binary(max_size=300))
def test_anything_is_read_or_refused(message: bytes) -> None:
    for parse in (dns.question, lambda data: dns.answers(data, dns.question(query("a.b")))):
        try:
            parse(message)
        except dns.BadMessage:
            pass


@given(st.data())
def test_a_spoilt_answer_is_read_or_refused(data: st.DataObject) -> None:
    message = bytearray(response("a.b", (1, 30, b"\1\2\3\4"), (28, 30, b"\0" * 16)))
    for _ in range(data.draw(st.integers(1, 6))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    try:
        dns.answers(bytes(message), dns.question(query("a.b")))
    except dns.BadMessage:
        pass
