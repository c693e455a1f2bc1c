"""How many requests are let through: a token bucket for each key and for each address that guesses. Pure but
for the clock, which is given.

A bucket is one number, the time at which it will be full (GCRA, as in ATM's traffic management): a request
moves it on by the time that one token takes to come back, and may not move it further than a bucketful from
now. A bucket that is full is not kept at all.
"""

from __future__ import annotations

from collections import OrderedDict
from math import ceil
from typing import NamedTuple


class Verdict(NamedTuple):
    """``wait``: seconds until a request would be let through, 0 if this one was. ``full_in``: seconds until
    the bucket is full again."""

    wait: float
    remaining: int
    full_in: float


class Buckets:
    """Buckets of the same size, by name. ``rate``: tokens a second; ``burst``: tokens of a full one."""

    def __init__(self, rate: float, burst: int, most: int) -> None:
        self.burst = burst
        self._token = 1.0 / rate
        self._depth = burst * self._token
        self._most = most
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at)

    @property
    def window(self) -> int:
        """Seconds in which an empty bucket fills."""
        return max(1, ceil(self._depth))

    def take(self, name: str, now: float) -> Verdict:
        """Take a token, if there is one."""
        full_at = max(self._full_at.get(name, now), now)
        after = full_at + self._token
        lacking = after - now - self._depth
        if lacking > 1e-9:  # floating point: a bucketful is a bucketful
            return Verdict(lacking, 0, full_at - now)
        self._full_at[name] = after
        self._full_at.move_to_end(name)
        if len(self._full_at) > self._most:
            self._forget(now)
        return Verdict(0.0, int((self._depth - (after - now)) / self._token + 1e-6), after - now)

    def wait(self, name: str, now: float) -> float:
        """Seconds until there is a token; nothing is taken."""
        full_at = self._full_at.get(name)
        if full_at is None:
            return 0.0
        return max(0.0, full_at + self._token - now - self._depth - 1e-9)

    def _forget(self, now: float) -> None:
        """Room for one more: those at the front were used longest ago. One that is not full goes only where
        there are too many of them, and its name then begins with a full bucket."""
        while self._full_at:
            name, full_at = next(iter(self._full_at.items()))
            if full_at > now and len(self._full_at) <= self._most:
                break
            del self._full_at[name]
