"""Sampling: what is done once, how often, and in which order."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bench import proc
from bench.figures import Figure


class Effort(NamedTuple):
    """How much is done. Each figure gets ``rounds`` times about ``samples`` samples."""

    rounds: int
    samples: int
    crowd: int  # sandboxes at once, and for the memory of one
    seconds: float  # of load for a throughput
    runs: int  # of each rival, in all
    pause: float  # before each create that is timed alone, in seconds

    @classmethod
    def full(cls) -> Effort:
        return cls(rounds=5, samples=40, crowd=100, seconds=3.0, runs=30, pause=0.15)

    @classmethod
    def quick(cls) -> Effort:
        return cls(rounds=2, samples=15, crowd=100, seconds=0.7, runs=9, pause=0.03)


class Probe(NamedTuple):
    """Something that is done and timed: one value for each of its figures, every time."""

    figures: tuple[Figure, ...]
    once: Callable[[], tuple[float, ...]]
    samples: int


def now_ms() -> float:
    return time.perf_counter() * 1000


def timed(work: Callable[[], object]) -> Callable[[], tuple[float, ...]]:
    """``once`` of a probe with one figure: how long ``work`` takes, in milliseconds."""

    def once() -> tuple[float, ...]:
        begun = now_ms()
        work()
        return (now_ms() - begun,)

    return once


def sample(probes: Sequence[Probe], rounds: int) -> list[Figure]:
    """Every probe in turn, and again: a busy minute of the host is then nobody's in particular."""
    for number in range(rounds):
        for probe in probes:
            if number == 0:
                probe.once()  # first times are slower everywhere, and happen once in a daemon's life
            _round(probe)
    return [figure for probe in probes for figure in probe.figures]


def _round(probe: Probe) -> None:
    pressure = proc.Pressure()
    rows = [probe.once() for _ in range(probe.samples)]
    waiting, load = pressure.share(), proc.load()
    for figure, column in zip(probe.figures, zip(*rows, strict=True), strict=True):
        figure.add(column, waiting, load)
