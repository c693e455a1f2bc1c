from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nsbox.service.following import incomplete


@given(st.text(), st.integers(0, 3))
def test_what_is_whole_ends_between_characters(text: str, cut: int) -> None:
    data = text.encode()
    data = data[: max(0, len(data) - cut)]
    rest = incomplete(data)
    assert text.startswith(data[: len(data) - rest].decode())
    assert rest <= 3


@given(st.binary())
def test_bytes_that_are_no_text_are_not_held_back_for_ever(data: bytes) -> None:
    rest = incomplete(data)
    assert rest <= min(3, len(data))
    # With three more bytes, whatever they are, what was held back goes on.
    assert incomplete(data + b"xyz") == 0
