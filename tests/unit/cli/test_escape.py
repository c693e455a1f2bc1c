"""The way out of a terminal, however what is typed is cut into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbox.cli.escape import DETACH, Escape


def typed(*pieces: bytes) -> tuple[bytes, bool]:
    """What got through, and whether the user left."""
    escape, through = Escape(), b""
    for piece in pieces:
        found = escape.take(piece)
        if found is DETACH:
            return through, True
        assert isinstance(found, bytes)
        through += found
    return through, False


@pytest.mark.parametrize(
    ("text", "through", "left"),
    [
        (b"ls\r", b"ls\r", False),
        (b"~.", b"", True),
        (b"ls ~.\r", b"ls ~.\r", False),
        (b"~/bin\r", b"~/bin\r", False),
        (b"~~.\r", b"~.\r", False),
        (b"\x10\x11", b"", True),
        (b"x\x10\x11", b"x", True),
        (b"\x10\x10y", b"\x10\x10y", False),
    ],
)
def test_byte_by_byte(text: bytes, through: bytes, left: bool) -> None:
    assert typed(*[bytes((byte,)) for byte in text]) == (through, left)


def test_after_a_line_has_ended() -> None:
    assert typed(b"ls\r", b"~", b".") == (b"ls\r", True)


@given(st.lists(st.binary(max_size=8), max_size=8))
def test_pieces_do_not_matter(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    assert typed(*pieces)[1] == typed(*[bytes((byte,)) for byte in whole])[1] == typed(whole)[1]


@given(st.lists(st.binary(max_size=8).filter(lambda piece: not set(piece) & set(b"~\x10")), max_size=8))
def test_what_is_no_escape_goes_through_as_it_is(pieces: list[bytes]) -> None:
    assert typed(*pieces) == (b"".join(pieces), False)
