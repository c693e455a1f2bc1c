"""Input that waits: on disk where it is much, so much of one user, and nothing of what has ended."""

from __future__ import annotations

import pytest

from nsbox.api import inputs
from nsbox.api.inputs import Inputs, held
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
    others = await _laid(made, "bob", bytes(MIB))  # nobody else's matter
    first.close()
    again = await _laid(made, "ann", bytes(70_000))
    assert made.waiting == {"ann": MIB // 2 + 70_000, "bob": MIB}
    for one in (second, others, again):
        one.close()


async def test_it_ends_with_its_request_unless_a_command_took_it() -> None:
    """Also where the request ends with an error, which holds on to whatever its frames knew."""
    made = Inputs(FakeReserve())
    laid = await _laid(made, "ann", bytes(MIB))
    with pytest.raises(ZeroDivisionError) as kept, held(laid):
        raise ZeroDivisionError
    assert kept.value.__traceback__ is not None
    assert not made.waiting
    taken = await _laid(made, "ann", bytes(MIB))
    with held(taken):
        taken.take()
    assert made.waiting["ann"] == MIB
    taken.close()
    assert not made.waiting
    with held(b"little"):
        pass


async def test_the_reserve_is_not_touched() -> None:
    reserve = FakeReserve()
    reserve.full = Problem(Code.HOST_FULL, "full")
    made = Inputs(reserve)
    with pytest.raises(Problem) as refused:
        await made.lay_down("ann", bytes(MIB))
    assert refused.value.code is Code.HOST_FULL
    assert not made.waiting
