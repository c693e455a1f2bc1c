"""Sizes of storage."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from nsbox.plan import storage

CLASSES = storage.sizes(64, 102_400)


@settings(deadline=None)
@given(st.integers(64, 102_400))
def test_every_size_that_may_be_asked_for_is_met_within_a_twentieth(mb: int) -> None:
    wanted = mb * storage.MIB
    found = storage.nearest(CLASSES, wanted)
    assert found is not None
    assert 0.95 <= found / wanted <= 1.05


def test_powers_of_two_are_met_exactly() -> None:
    for exponent in range(6, 17):
        wanted = 2**exponent * storage.MIB
        assert storage.nearest(CLASSES, wanted) == wanted


def test_what_is_too_far_off_has_no_class() -> None:
    assert storage.nearest(CLASSES, storage.MIB) is None
    assert storage.nearest(CLASSES, 1 << 50) is None
    assert storage.nearest([], storage.MIB) is None


def test_inodes_grow_with_the_size_and_are_never_few() -> None:
    assert storage.inodes(1) == 16_384
    assert storage.inodes(1 << 30) == 131_072
