"""A strict parser of Prometheus' text format 0.0.4: what is not exactly as documented is an error.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"')
_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)")
_KINDS = ("counter", "gauge", "histogram")
_SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}
Labels = tuple[tuple[str, str], ...]


class Parsed(NamedTuple):
    """Families by name, and their samples by name and labels."""

    kinds: dict[str, str]
    samples: dict[tuple[str, Labels], float]

    def value(self, name: str, /, **labels: str) -> float:
        return self.samples[name, tuple(sorted(labels.items()))]


def parse(text: str) -> Parsed:
    """Raises ``ValueError``."""
    if not text.endswith("\n"):
        raise ValueError("the last line has no end")
    kinds: dict[str, str] = {}
    helped: set[str] = set()
    samples: dict[tuple[str, Labels], float] = {}
    family = ""
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            family = line.split(" ", 3)[2]
            if family in helped or not _NAME.fullmatch(family):
                raise ValueError(f"a second or wrong HELP: {line}")
            helped.add(family)
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            if name != family or name in kinds or kind not in _KINDS:
                raise ValueError(f"a TYPE that is out of place: {line}")
            kinds[name] = kind
        else:
            _sample(line, family, kinds, samples)
    if set(kinds) != helped:
        raise ValueError("a HELP without a TYPE")
    for name, kind in kinds.items():
        _check(name, kind, samples)
    return Parsed(kinds, samples)


def _sample(line: str, family: str, kinds: dict[str, str], samples: dict[tuple[str, Labels], float]) -> None:
    match = _SAMPLE.fullmatch(line)
    if match is None:
        raise ValueError(f"no sample: {line!r}")
    name, inner, value = match.groups()
    if family not in kinds or name.removeprefix(family) not in _SUFFIXES[kinds[family]]:
        raise ValueError(f"a sample of another family: {line!r}")
    labels: list[tuple[str, str]] = []
    rest = inner or ""
    while rest:
        found = _LABEL.match(rest)
        if found is None:
            raise ValueError(f"no label: {rest!r}")
        labels.append((found[1], re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], found[2])))
        rest = rest[found.end() :]
        if rest and not rest.startswith(","):
            raise ValueError(f"something behind a label: {rest!r}")
        rest = rest[1:]
    key = name, tuple(sorted(labels))
    if key in samples or len(dict(labels)) != len(labels):
        raise ValueError(f"twice: {line!r}")
    samples[key] = float(value)


def _check(name: str, kind: str, samples: dict[tuple[str, Labels], float]) -> None:
    own = {key: value for key, value in samples.items() if key[0].startswith(name)}
    if kind == "counter":
        values = [value for (sample, _), value in own.items() if sample == name]
        if any(value < 0 or math.isnan(value) for value in values) or not name.endswith("_total"):
            raise ValueError(f"{name} is no counter")
    if kind == "histogram":
        buckets = sorted(
            (float(dict(labels)["le"]), value)
            for (sample, labels), value in own.items()
            if sample == f"{name}_bucket"
        )
        counts = [count for _, count in buckets]
        if counts != sorted(counts) or not math.isinf(buckets[-1][0]):
            raise ValueError(f"the buckets of {name} do not grow up to infinity")
        if counts[-1] != own[f"{name}_count", ()] or own[f"{name}_sum", ()] < 0:
            raise ValueError(f"the count of {name} is not that of its buckets")
