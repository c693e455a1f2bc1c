"""Token buckets, against a model that counts tokens."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbox.api.rates import Buckets

#: Powers of two, so that the model's fractions and the bucket's floats are the same numbers.
RATES = st.sampled_from([0.25, 0.5, 1.0, 2.0, 8.0, 64.0])
STEPS = st.lists(st.integers(0, 4_000).map(lambda ticks: ticks / 256), max_size=60)


class Model:
    """A bucket as everybody imagines it."""

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self.rate, self.burst, self.tokens, self.at = Fraction(rate), burst, Fraction(burst), Fraction(now)

    def take(self, now: float) -> bool:
        self.tokens = min(Fraction(self.burst), self.tokens + (Fraction(now) - self.at) * self.rate)
        self.at = Fraction(now)
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


@given(RATES, st.integers(1, 20), STEPS)
def test_it_is_a_token_bucket(rate: float, burst: int, steps: list[float]) -> None:
    now = 1_000.0
    buckets, model = Buckets(rate, burst, 10), Model(rate, burst, now)
    for step in steps:
        now += step
        expected_wait = buckets.wait("a", now)
        found = buckets.take("a", now)
        assert (found.wait == 0) is model.take(now)
        assert found.wait == pytest.approx(expected_wait, abs=1e-6)
        assert found.remaining == int(model.tokens)
        assert found.full_in == pytest.approx(float((burst - model.tokens) / Fraction(rate)), abs=1e-6)


@given(RATES, st.integers(1, 20), STEPS)
def test_whoever_waits_as_told_is_let_through(rate: float, burst: int, steps: list[float]) -> None:
    now = 0.0
    buckets = Buckets(rate, burst, 10)
    for step in steps:
        now += step
        found = buckets.take("a", now)
        if found.wait:
            now += found.wait
            assert buckets.take("a", now).wait == 0


@given(
    st.sampled_from([0.25, 1.0, 4.0]),
    st.integers(1, 5),
    st.lists(st.integers(0, 64).map(lambda ticks: ticks / 256), min_size=20, max_size=80),
)
def test_no_more_than_the_rate_and_one_burst(rate: float, burst: int, steps: list[float]) -> None:
    now, through = 0.0, 0
    buckets = Buckets(rate, burst, 10)
    for step in steps:
        now += step
        through += buckets.take("a", now).wait == 0
        assert through <= burst + rate * now


def test_one_does_not_take_from_another() -> None:
    buckets = Buckets(1, 2, 10)
    for _ in range(5):
        buckets.take("a", 0)
    assert buckets.take("a", 0).wait > 0
    assert buckets.take("b", 0).wait == 0


def test_a_refusal_costs_nothing() -> None:
    buckets = Buckets(1, 1, 10)
    buckets.take("a", 0)
    for _ in range(100):
        assert buckets.take("a", 0.5).wait == pytest.approx(0.5)


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 3)), max_size=400))
def test_memory_is_bounded(asked: list[tuple[int, int]]) -> None:
    now = 0.0
    buckets = Buckets(1, 3, 16)
    for name, step in asked:
        now += step
        buckets.take(str(name), now)
        assert len(buckets) <= 16


def test_full_buckets_go_first() -> None:
    buckets = Buckets(1, 1, 2)
    buckets.take("full", 0)
    buckets.take("empty", 10)
    buckets.take("third", 10)
    assert buckets.wait("empty", 10) > 0
    assert len(buckets) == 2
