"""Users, keys, what they use and did, and the daemon itself."""

from __future__ import annotations

from datetime import datetime

import msgspec

from nsbox.client.types.base import Answered


class User(Answered, frozen=True):
    """Somebody whom sandboxes belong to."""

    id: str
    name: str
    role: str = "user"
    plan: str = ""
    created_at: datetime | None = None
    disabled: bool = False


class Key(Answered, frozen=True):
    """An API key, but for itself."""

    id: str
    name: str
    prefix: str = ""
    user_id: str = ""
    scopes: tuple[str, ...] = ()
    created_at: datetime | None = None
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None


class NewKey(Key, frozen=True, kw_only=True):
    """A key that was just made, with its plaintext ``key``, which is told this once and not shown by repr."""

    key: str

    def __repr__(self) -> str:
        return f"NewKey(id={self.id!r}, name={self.name!r}, key=…)"


class Plan(Answered, frozen=True):
    """What a user may have; None is without a bound."""

    name: str
    compute_seconds_per_month: int | None = None
    vcpus: int | None = None
    memory_mb: int | None = None
    storage_mb: int | None = None
    timeout_ms: int | None = None
    sandboxes: int | None = None


class Period(Answered, frozen=True):
    """What was used in the current month."""

    period_start: datetime | None = None
    period_end: datetime | None = None
    compute_seconds: int = 0
    compute_seconds_limit: int | None = None


class Me(Answered, frozen=True):
    """Who the key is."""

    user: User
    key: Key
    plan: Plan | None = None
    usage: Period | None = None


class UsageRow(Answered, frozen=True):
    """Compute seconds of a day, a sandbox or a key; only that member is there."""

    compute_seconds: int
    day: str | None = None
    sandbox_id: str | None = None
    key_id: str | None = None
    user_id: str | None = None


class Usage(Answered, frozen=True):
    """Compute seconds from one moment to another."""

    from_: datetime = msgspec.field(name="from")
    to: datetime
    by: str
    compute_seconds: int
    usage: tuple[UsageRow, ...] = ()


class AuditEvent(Answered, frozen=True):
    """Who did what, from where."""

    id: str | int
    at: datetime
    action: str
    user_id: str | None = None
    key_id: str | None = None
    sandbox_id: str | None = None
    from_: str | None = msgspec.field(name="from", default=None)
    outcome: str | None = None
    status: int | None = None


class Audit(Answered, frozen=True):
    """A page, newest first; ``next`` goes into ``before``."""

    events: tuple[AuditEvent, ...]
    next: str | int | None = None


class Health(Answered, frozen=True):
    """Whether sandboxes can be made."""

    status: str
    reasons: tuple[str, ...] = ()
    version: str = ""
    sandboxes: int | None = None
    enforced: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether sandboxes can be made."""
        return self.status in ("ok", "degraded")
