"""What happens to sandboxes, as those hear of it who asked to. Pure data."""

from __future__ import annotations

import secrets
from enum import StrEnum

import msgspec

from nsbox.model.lifecycle import Action, EndReason, State
from nsbox.model.sandbox import Sandbox


class Kind(StrEnum):
    """The names of happenings."""

    CREATED = "created"
    PAUSED = "paused"
    RESUMED = "resumed"
    KILLED = "killed"  # whoever or whatever ended it before its time; ``reason`` tells
    EXPIRED = "expired"
    OOM = "oom"
    QUOTA = "quota"


class Happening(msgspec.Struct, frozen=True, kw_only=True):
    """One of them. ``reason``: why, where there are several; ``user`` is the owner's id."""

    id: str
    kind: Kind
    at: float
    user: str
    sandbox: str | None = None
    status: State | None = None
    reason: str | None = None


_STANDSTILLS = {
    Action.PAUSE: "asked",
    Action.IDLE: "idle",
    Action.EXPIRE: "expired",
    Action.EXHAUST: "quota",
}
_RESUMED = {Action.RESUME: "asked", Action.WAKE: "request"}


def new_id() -> str:
    """Unguessable, and the same each time that one happening is told."""
    return "evt_" + secrets.token_hex(12)


def of(action: Action, record: Sandbox, at: float) -> Happening | None:
    """What a change of state is to those outside; None where they would not notice."""
    kind, reason = _told(action, record)
    if kind is None:
        return None
    return Happening(
        id=new_id(),
        kind=kind,
        at=at,
        user=record.owner,
        sandbox=record.id,
        status=record.state,
        reason=reason,
    )


def _told(action: Action, record: Sandbox) -> tuple[Kind | None, str | None]:
    if action is Action.READY:
        return Kind.CREATED, None
    if action in _STANDSTILLS:
        return Kind.PAUSED, _STANDSTILLS[action]
    if action in _RESUMED:
        return Kind.RESUMED, _RESUMED[action]
    if not record.state.final or record.end_reason is EndReason.FAILED:
        return None, None  # one that could not be made was never told of
    if record.end_reason is EndReason.EXPIRED:
        return Kind.EXPIRED, None
    return Kind.KILLED, None if record.end_reason is None else record.end_reason.value
