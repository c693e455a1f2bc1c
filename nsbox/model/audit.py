"""Records of the audit log: who did what to which sandbox, from where. Pure data.

Nothing that a client chose freely is in one but ids of paths, cut to a length: no body, no environment, no
command, no query, no key."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Outcome(StrEnum):
    """What became of a request."""

    DONE = "done"
    REFUSED = "refused"  # the client may not: 401, 402, 403, 429
    FAILED = "failed"  # any other error
    LEFT = "left"  # the client left before there was an answer; what it asked for may go on

    @staticmethod
    def of(status: int) -> Outcome:
        """By the status of the answer; 0 is none."""
        if not status:
            return Outcome.LEFT
        if status < 400:
            return Outcome.DONE
        return Outcome.REFUSED if status in (401, 402, 403, 429) else Outcome.FAILED


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One record. ``user`` is the key's, ``subject`` the user that it acted for; ``count`` is more than one
    where guesses of keys are summed up. ``id`` is 0 until it is written."""

    at: float
    action: str
    client: str
    outcome: Outcome
    status: int
    user: str | None = None
    subject: str | None = None
    key: str | None = None
    sandbox: str | None = None
    target: str | None = None
    count: int = 1
    id: int = 0


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """Which events are asked for, the newest first. ``owner``: only what this user did, or what was done for
    the user. ``before``: only those older than this id."""

    limit: int
    before: int | None = None
    owner: str | None = None
    user: str | None = None
    sandbox: str | None = None
    action: str | None = None
