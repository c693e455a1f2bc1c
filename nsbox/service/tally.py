"""Counting what happens: numbers that only grow, and how long things took. No I/O, nothing is awaited."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as _Counter
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from nsbox.model.metrics import Family, Point

#: Upper bounds in seconds, from a start of some milliseconds to a pull and a build.
BOUNDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Counter:
    """A total for each combination of labels; which there are is the code's to say, never a client's."""

    def __init__(self, name: str, help_: str, *labels: str) -> None:
        self._name, self._help, self._labels = name, help_, labels
        self._totals: _Counter[tuple[str, ...]] = _Counter()

    def add(self, *values: str, by: int = 1) -> None:
        self._totals[values] += by

    def total(self, *values: str) -> int:
        return self._totals[values]

    def family(self) -> Family:
        totals = dict(self._totals) if self._labels else {(): self._totals[()]}
        points = tuple(
            Point(total, tuple(zip(self._labels, values, strict=True)))
            for values, total in sorted(totals.items())
        )
        return Family(self._name, "counter", self._help, points)


class Histogram:
    """How many took up to so long."""

    def __init__(self, name: str, help_: str) -> None:
        self._name, self._help = name, help_
        self._counts = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self._sum += seconds

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Observe how long the block took, unless it raised."""
        begun = perf_counter()
        yield
        self.observe(perf_counter() - begun)

    def family(self) -> Family:
        points, so_far = [], 0
        for bound, count in zip((*map(repr, BOUNDS), "+Inf"), self._counts, strict=True):
            so_far += count
            points.append(Point(so_far, (("le", bound),), "_bucket"))
        points += [Point(round(self._sum, 6), (), "_sum"), Point(so_far, (), "_count")]
        return Family(self._name, "histogram", self._help, tuple(points))


class Tally:
    """What this daemon has done since it was started."""

    def __init__(self) -> None:
        self.creates = Counter("nsbox_creates_total", "Sandboxes asked for, by how that went.", "result")
        self.ends = Counter("nsbox_ends_total", "Sandboxes that have ended, by why.", "reason")
        self.standstills = Counter(
            "nsbox_standstills_total",
            "Pauses and resumes: pause, idle, expire, exhaust, resume, wake.",
            "cause",
        )
        self.commands = Counter("nsbox_commands_total", "Commands that were started, by kind.", "kind")
        self.failures = Counter("nsbox_command_failures_total", "Commands that could not be started.")
        self.outcomes = Counter(
            "nsbox_execs_total", "Commands that were waited for, by how they ended.", "outcome"
        )
        self.swept = Counter(
            "nsbox_sweep_findings_total", "What differed between the records and the host, by rule.", "rule"
        )
        self.create_seconds = Histogram("nsbox_create_seconds", "From the request to a running sandbox.")
        self.start_seconds = Histogram(
            "nsbox_command_start_seconds", "From the request to a started command."
        )
        self.exec_seconds = Histogram("nsbox_exec_seconds", "Of commands that were waited for, to their end.")

    def families(self) -> list[Family]:
        return [one.family() for one in vars(self).values()]
