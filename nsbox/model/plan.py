"""What a user may use, and what is used of it."""

from __future__ import annotations

from typing import NamedTuple

import msgspec


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a user may use. None: as much as there is."""

    name: str
    compute_seconds_per_month: int | None
    vcpus: int
    memory_mb: int
    storage_mb: int
    timeout_ms: int
    sandboxes: int


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """What a user has used, in a period of wall-clock time."""

    period_start: float
    period_end: float
    compute_seconds: int
    compute_seconds_limit: int | None = None


class PlanAndUse(NamedTuple):
    """Both, of one user."""

    plan: Plan
    use: Use
