from __future__ import annotations

import array
import json
import os
import socket
import struct
from typing import Any, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsbox.wire import framing, messages
from nsbox.wire.framing import MAX_PACKET, PacketTooLarge, WireError, decode, encode
from nsbox.wire.messages import Abort, Exec, Exited, Put, Ready, Scan, Stage, Started
from tests.unit.wire.shapes import EVERYTHING, KINDS, any_message, example
from tests.unit.wire.shapes import messages as messages_of

HEADER = struct.Struct("<BI")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_comes_out_as_it_went_in(kind: type) -> None:
    @settings(max_examples=25, deadline=None)
    @given(messages_of(kind))
    def check(message: Any) -> None:
        got = decode(encode(message), frozenset({kind}))
        assert type(got) is kind
        assert got == message

    check()


@pytest.mark.parametrize(
    "text", ["", "\0\x01\x1f\x7f", "\ud800", "\ud83d\ude00", "😀", "\u2028", '"\\', "a" * 70_000]
)
def test_strings_survive_whatever_they_hold(text: str) -> None:
    order = Exec("k", (text, ""), (), text, "")
    assert decode(encode(order), frozenset({Exec})) == order


def test_a_file_name_that_is_not_text_survives() -> None:
    name = os.fsdecode(b"\xff\xfe caf\xe9 \xf0\x9f\x98\x80")
    got = decode(encode(messages.Read(name)), frozenset({messages.Read}))
    assert isinstance(got, messages.Read)
    assert os.fsencode(got.path) == os.fsencode(name)


def test_empty_tuples_and_an_empty_blob() -> None:
    for message in (Exec("", (), (), "", ""), Put("", -1, b"")):
        assert decode(encode(message), EVERYTHING) == message


def test_every_byte_of_a_blob_is_kept() -> None:
    blob = bytes(range(256)) * 100
    assert decode(encode(Put("/f", 0o644, blob)), EVERYTHING) == Put("/f", 0o644, blob)


def test_no_two_kinds_share_a_number() -> None:
    assert len({encode(example(kind))[0] for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_is_of_some_socket(kind: type) -> None:
    sets = [value for name, value in vars(messages).items() if name.startswith(("TO_", "FROM_"))]
    assert any(kind in one for one in sets)
    assert frozenset().union(*sets) == EVERYTHING


def test_a_message_out_of_place_is_refused_by_name() -> None:
    with pytest.raises(WireError, match=r"got Abort, expected one of Exited, Started"):
        decode(encode(Abort("")), frozenset({Started, Exited}))


# ---- what is refused


def packet(kind: type, body: bytes, *, claimed: int | None = None, blob: bytes = b"") -> bytes:
    number = encode(example(kind))[0]
    return HEADER.pack(number, len(body) if claimed is None else claimed) + body + blob


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[",
        b"{}",
        b"null",
        b'"k"',
        b"[]",
        b'["k"]',
        b'["k",1,2]',
        b'["k",true]',
        b'["k",false]',
        b'["k",1.0]',
        b'["k",1e3]',
        b'["k",NaN]',
        b'["k",Infinity]',
        b'["k",null]',
        b'["k","1"]',
        b'["k",[1]]',
        b'["k",{}]',
        b'[1,"k"]',
        b'[["k"],1]',
        b'["k",9223372036854775808]',
        b'["k",-9223372036854775809]',
        b'["k",' + b"9" * 5000 + b"]",
        b'["k",1]x',
        b'\xff["k",1]',
        b'["\xc3",1]',
        b"[" * 100_000,
        b'{"a":' * 50_000,
    ],
    ids=lambda body: repr(body[:24]),
)
def test_fields_of_a_wrong_type_are_refused(body: bytes) -> None:
    with pytest.raises(WireError):
        decode(packet(Started, body), frozenset({Started}))


def test_the_same_packet_with_right_fields_is_taken() -> None:
    """Or the cases above could all fail for one and the same other reason."""
    assert decode(packet(Started, b'["k",1]'), frozenset({Started})) == Started("k", 1)
    edge = b'["k",-9223372036854775808]'
    assert decode(packet(Started, edge), frozenset({Started})) == Started("k", -(1 << 63))


@pytest.mark.parametrize(
    "wrong", [b'["k",["a",1],[],"","",0]', b'["k",[true],[],"","",0]', b'["k","a",[],"","",0]']
)
def test_tuples_hold_strings_only(wrong: bytes) -> None:
    assert decode(packet(Exec, b'["k",["a"],[],"","",0]'), EVERYTHING) == Exec("k", ("a",), (), "", "")
    with pytest.raises(WireError):
        decode(packet(Exec, wrong), EVERYTHING)


@pytest.mark.parametrize(
    "data", [b"", b"\1", b"\1\0\0\0", b"\0\0\0\0\0", b"\xff\0\0\0\0", HEADER.pack(200, 0)]
)
def test_what_is_no_packet(data: bytes) -> None:
    with pytest.raises(WireError):
        decode(data, EVERYTHING)


def test_lengths_that_lie() -> None:
    for claimed in (0, 1, 6, 8, 0xFFFF_FFFF):
        with pytest.raises(WireError):
            decode(packet(Started, b'["k",1]', claimed=claimed), EVERYTHING)
    with pytest.raises(WireError, match="says"):
        decode(packet(Started, b'["k",1]', blob=b"tail"), EVERYTHING)  # only some kinds have a blob


@settings(max_examples=300, deadline=None)
@given(any_message, st.data())
def test_a_truncated_packet_is_never_read_as_something_else(message: Any, data: st.DataObject) -> None:
    whole = encode(message)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    try:
        got = decode(cut, EVERYTHING)
    except WireError:
        return
    # Only a blob may be shorter: it has no length of its own.
    assert isinstance(got, Put)
    assert isinstance(message, Put)
    assert got[:-1] == message[:-1]
    assert message.blob.startswith(got.blob)


@settings(max_examples=400, deadline=None)
@given(
    any_message,
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_a_changed_packet_is_read_or_refused_and_nothing_else(
    message: Any, changes: list[tuple[float, int]]
) -> None:
    changed = bytearray(encode(message))
    for where, byte in changes:
        changed[int(where * len(changed))] = byte
    try:
        got = decode(changed, EVERYTHING)
    except WireError:
        return
    assert well_typed(got)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 60),
    st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists),
)
def test_any_json_is_read_or_refused_and_nothing_else(number: int, value: object) -> None:
    body = json.dumps(value).encode()
    try:
        got = decode(HEADER.pack(number, len(body)) + body, EVERYTHING)
    except WireError:
        return
    assert well_typed(got)


def well_typed(message: Any) -> bool:
    hints = get_type_hints(type(message)).values()
    return len(message) == len(hints) and all(
        type(value) is tuple and all(type(item) is str for item in value)
        if hint == tuple[str, ...]
        else type(value) is hint
        for hint, value in zip(hints, message, strict=True)
    )


# ---- the sender's side


@pytest.mark.parametrize(
    "wrong",
    [
        Scan("/", True, 1),
        Scan("/", 1, 1.0),  # type: ignore[arg-type]
        Scan(b"/", 1, 1),  # type: ignore[arg-type]
        Scan("/", 1, 1 << 63),
        Ready(None),  # type: ignore[arg-type]
        Exec("k", ["a"], (), "", ""),  # type: ignore[arg-type]
        Exec("k", (b"a",), (), "", ""),  # type: ignore[arg-type]
        Exec("k", "ab", (), "", ""),  # type: ignore[arg-type]
    ],
    ids=repr,
)
def test_a_wrong_field_is_the_senders_mistake_and_says_which(wrong: Any) -> None:
    """The receiver would hang up on it: better to know at once, and whose fault it was."""
    with pytest.raises(TypeError, match=rf"{type(wrong).__name__}\.\w+ is not of type"):
        encode(wrong)


@given(any_message)
def test_what_is_sent_is_what_would_be_taken(message: Any) -> None:
    assert well_typed(decode(encode(message), EVERYTHING))


def test_an_enum_goes_as_its_string() -> None:
    got = decode(encode(messages.Refused("k", Stage.CWD, 2, "")), EVERYTHING)
    assert isinstance(got, messages.Refused)
    assert type(got.stage) is str
    assert got.stage == "cwd"


def test_the_largest_packet_and_one_byte_more() -> None:
    overhead = len(encode(Put("", 0, b"")))
    largest = Put("", 0, b"x" * (MAX_PACKET - overhead))
    assert len(encode(largest)) == MAX_PACKET
    assert decode(encode(largest), EVERYTHING) == largest
    with pytest.raises(PacketTooLarge, match=f"Put message of {MAX_PACKET + 1} bytes"):
        encode(Put("", 0, b"x" * (MAX_PACKET - overhead + 1)))


def test_the_largest_packet_fits_a_socket() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, framing.SEND_BUFFER)
        ours.setblocking(False)
        data = encode(Put("", 0, b"x" * (MAX_PACKET - len(encode(Put("", 0, b""))))))
        assert ours.send(data) == MAX_PACKET
        assert theirs.recv(MAX_PACKET + 1) == data


# ---- descriptors


def test_descriptors_are_found_and_other_things_passed_over() -> None:
    numbers = array.array("i", [5, 6, 7])
    ancillary = [
        (socket.SOL_SOCKET, socket.SCM_CREDENTIALS, b"\1\0\0\0" * 3),
        (socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers.tobytes()[:8]),
        (socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers.tobytes()[8:] + b"\1\2"),
    ]
    assert framing.descriptors_in(ancillary) == [5, 6, 7]
    assert framing.descriptors_in([]) == []
