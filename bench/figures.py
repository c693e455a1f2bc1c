"""Samples in rounds, what is said of them, and the targets they are held against. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

JSON = dict[str, Any]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * share // 1).__int__() - 1)]


class Round(NamedTuple):
    """One go at a figure. ``waiting`` is the share of the time in which some process of the host waited for
    a CPU (pressure stall information), None where the kernel does not say; ``load`` the load average then."""

    values: tuple[float, ...]
    waiting: float | None
    load: float

    @property
    def p50(self) -> float:
        return percentile(self.values, 0.5)


class Target(NamedTuple):
    """What a median must not exceed or, with ``least``, must reach."""

    bound: float
    least: bool = False

    def met(self, value: float) -> bool:
        return value >= self.bound if self.least else value <= self.bound

    def __str__(self) -> str:
        return f"{'≥' if self.least else '≤'} {self.bound:g}"


class Figure:
    """A named quantity, measured in rounds."""

    def __init__(
        self, name: str, title: str, unit: str = "ms", target: Target | None = None, note: str = ""
    ) -> None:
        self.name, self.title, self.unit, self.target, self.note = name, title, unit, target, note
        self.rounds: list[Round] = []
        self.missing = ""  # why there is nothing

    def add(self, values: Sequence[float], waiting: float | None, load: float) -> None:
        if values:
            self.rounds.append(Round(tuple(values), waiting, load))

    @property
    def values(self) -> list[float]:
        return [value for one in self.rounds for value in one.values]

    @property
    def calmest(self) -> Round:
        """The round that other work on the host disturbed least, judged by the host and not by its own
        result: to take the fastest would be to choose the answer."""
        return min(self.rounds, key=lambda one: one.load if one.waiting is None else one.waiting)

    @property
    def verdict(self) -> str:
        """``ok`` only if the median of all samples meets the target."""
        if self.target is None:
            return ""
        if not self.rounds:
            return "not measured"
        if self.target.met(percentile(self.values, 0.5)):
            return "ok"
        return "MISSED (ok in the calmest round)" if self.target.met(self.calmest.p50) else "MISSED"

    def to_json(self) -> JSON:
        told: JSON = {"name": self.name, "title": self.title, "unit": self.unit}
        if self.note:
            told["note"] = self.note
        if self.target is not None:
            told |= {"target": str(self.target), "verdict": self.verdict}
        if not self.rounds:
            return told | {"notMeasured": self.missing or "nothing was sampled"}
        return told | {
            "all": _summary(self.values),
            "calmest": _summary(self.calmest.values),
            "rounds": [
                {"p50": _short(one.p50), "samples": len(one.values), "waiting": one.waiting, "load": one.load}
                for one in self.rounds
            ],
        }


def _summary(values: Sequence[float]) -> JSON:
    told = {"samples": len(values), "mean": _short(statistics.fmean(values)), "least": _short(min(values))}
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        told[name] = _short(percentile(values, share))
    return told | {"most": _short(max(values))}


def _short(value: float) -> float:
    return float(f"{value:.4g}")
