"""Bodies of ``/keys`` and ``/users`` → what the service takes."""

from __future__ import annotations

import re
from datetime import datetime

import msgspec

from nsbox.model.account import Role, Scope, good_name
from nsbox.model.errors import Code, Problem
from nsbox.service.accounts import KeyWish, UserChange

_PLAN = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


class MakeKey(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """``POST /keys``."""

    name: str
    scopes: list[Scope] | None = None
    expires_at: str | None = None

    def wish(self, now: float) -> KeyWish:
        """Checked as far as it can be without knowing who asks."""
        _check_name(self.name)
        if self.scopes is not None and not self.scopes:
            raise _wrong("a key without a scope would open nothing", "scopes")
        scopes = None if self.scopes is None else tuple(self.scopes)
        return KeyWish(name=self.name, scopes=scopes, expires_at=_moment(self.expires_at, now))


class MakeUser(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """``POST /users``."""

    name: str
    role: Role = Role.USER
    plan: str = ""

    def check(self) -> None:
        """Whether the name is free is found out later."""
        _check_name(self.name)
        _check_plan(self.plan)


class ChangeUser(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """``PATCH /users/:id``: what is not given stays."""

    name: str | None = None
    role: Role | None = None
    plan: str | None = None
    disabled: bool | None = None

    def change(self) -> UserChange:
        """Checked."""
        if self.name is not None:
            _check_name(self.name)
        if self.plan is not None:
            _check_plan(self.plan)
        return UserChange(name=self.name, role=self.role, plan=self.plan, disabled=self.disabled)


def _moment(text: str | None, now: float) -> float | None:
    """A time with its zone: without one it would be anybody's guess."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        # To the millisecond, as it is told again: a key may then ask for exactly its own expiry.
        at = round(moment.timestamp() * 1000) / 1000 if moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        at = None
    if at is None:
        raise _wrong("expiresAt is a time such as 2027-01-31T12:00:00Z", "expiresAt")
    if at <= now:
        raise _wrong("expiresAt is in the past", "expiresAt")
    return at


def _check_name(name: str) -> None:
    if not good_name(name):
        raise _wrong("a name has 1 to 64 visible characters", "name")


def _check_plan(plan: str) -> None:
    if plan and not _PLAN.fullmatch(plan):
        raise _wrong("plan is the name of a plan (small letters, digits, - and _), or empty", "plan")


def _wrong(detail: str, field: str) -> Problem:
    return Problem(Code.INVALID_FIELD, detail, field=field)
