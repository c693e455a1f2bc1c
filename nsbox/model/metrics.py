"""What sandboxes use, and what the daemon counts. Pure data, no I/O."""

from __future__ import annotations

from typing import NamedTuple


class Reading(NamedTuple):
    """What one sandbox has used up to a moment, or uses then. None: this host cannot tell."""

    cpu_us: int | None = None
    throttled_us: int | None = None
    memory: int | None = None
    memory_peak: int | None = None
    swap: int | None = None
    io_read: int | None = None
    io_written: int | None = None
    processes: int | None = None
    received: int | None = None
    sent: int | None = None
    disk: int | None = None
    inodes: int | None = None


class Sample(NamedTuple):
    """A reading and its moment: seconds since the epoch. ``cpu_percent``: since the one before, 100 for one
    processor."""

    at: float
    reading: Reading
    cpu_percent: float | None = None


class Point(NamedTuple):
    """One value of a family. ``suffix`` is put behind its name, as ``_bucket`` of a histogram."""

    value: float
    labels: tuple[tuple[str, str], ...] = ()
    suffix: str = ""


class Family(NamedTuple):
    """What is told to Prometheus under one name. ``kind``: counter, gauge or histogram."""

    name: str
    kind: str
    help: str
    points: tuple[Point, ...]
