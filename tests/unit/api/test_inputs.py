"""Input that waits: on disk where it is much, so much of one user, and nothing of what has ended."""

from __future__ import annotations

import gc

import pytest

from nsbox.api import inputs
from nsbox.api.inputs import Inputs
from nsbox.model.errors import Code, Problem
from nsbox.model.sandbox import StoredInput
from tests.unit.api.fakes import FakeReserve

MIB = 1 << 20


async def _laid(made: Inputs, user: str, data: bytes) -> StoredInput:
    found = await made.lay_down(user, data)
    assert not isinstance(found, bytes)
    return found


async def test_little_stays_as_it_is() -> None:
    made = Inputs(FakeReserve())
    assert await made.lay_down("ann", b"x" * 65_536) == b"x" * 65_536
    assert not made.waiting


async def test_it_is_read_in_pieces_and_once() -> None:
    made, data = Inputs(FakeReserve()), bytes(range(256)) * 2_000
    laid = await _laid(made, "ann", data)
    assert len(laid) == len(data) == made.waiting["ann"]
    pieces = []
    while piece := await laid.next():
        pieces.append(piece)
    assert b"".join(pieces) == data
    assert max(map(len, pieces)) == 65_536
    laid.close()
    laid.close()
    assert await laid.next() == b""
    assert not made.waiting


async def test_so_much_of_one_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "_MOST_OF_ONE", MIB)
    made = Inputs(FakeReserve())
    first = await _laid(made, "ann", bytes(MIB // 2))
    second = await _laid(made, "ann", bytes(MIB // 2))
    with pytest.raises(Problem) as refused:
        await made.lay_down("ann", bytes(70_000))
    assert refused.value.code is Code.STDIN_FULL
    assert len(await _laid(made, "bob", bytes(MIB))) == MIB  # nobody else's matter
    first.close()
    assert len(await _laid(made, "ann", bytes(70_000))) == 70_000
    second.close()


async def test_what_nobody_took_counts_no_more() -> None:
    """A request may be refused between its input and its command."""
    made = Inputs(FakeReserve())
    laid = await _laid(made, "ann", bytes(MIB))
    del laid
    gc.collect()
    assert not made.waiting


async def test_the_reserve_is_not_touched() -> None:
    reserve = FakeReserve()
    reserve.full = Problem(Code.HOST_FULL, "full")
    made = Inputs(reserve)
    with pytest.raises(Problem) as refused:
        await made.lay_down("ann", bytes(MIB))
    assert refused.value.code is Code.HOST_FULL
    assert not made.waiting
