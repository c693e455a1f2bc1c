"""``/me``, ``/keys``, ``/users``, ``/usage``, ``/audit``, and how the daemon is."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime

import msgspec

from nsbox.client.call import Call, Request, body, part, query, reader
from nsbox.client.errors import from_answer
from nsbox.client.types.account import Audit, Health, Key, Me, NewKey, Usage, User

#: A day, or a moment.
When = str | date | datetime


class _Keys(msgspec.Struct):
    keys: list[Key]


class _Users(msgspec.Struct):
    users: list[User]


_read_keys, _read_users = reader(_Keys), reader(_Users)


def me(top: str) -> Call[Me]:
    """Who the key is, and what is left of its plan."""
    return Call("GET", f"{top}/me", reader(Me), safe=True)


def keys(top: str, *, all: bool = False) -> Call[list[Key]]:
    """Your keys, revoked ones too; with ``all`` everybody's (admin)."""
    return Call("GET", f"{top}/keys", lambda data: _read_keys(data).keys, query=query(all=all), safe=True)


def create_key(
    top: str, name: str, *, scopes: Iterable[str] | None = None, expires_at: When | None = None
) -> Call[NewKey]:
    """Make a key. ``key`` of the answer is told this once. Not sent again after a lost answer."""
    wish = body(name=name, scopes=None if scopes is None else list(scopes), expires_at=_moment(expires_at))
    return Call("POST", f"{top}/keys", reader(NewKey), body=wish)


def revoke_key(top: str, key_id: str) -> Call[None]:
    """It opens nothing from now on."""
    return Call("DELETE", f"{top}/keys/{part(key_id)}", _nothing, safe=True, again=lambda: None)


def users(top: str) -> Call[list[User]]:
    """All users (admin)."""
    return Call("GET", f"{top}/users", lambda data: _read_users(data).users, safe=True)


def user(top: str, user_id: str) -> Call[User]:
    """One user (admin)."""
    return Call("GET", f"{top}/users/{part(user_id)}", reader(User), safe=True)


def create_user(top: str, name: str, *, role: str | None = None, plan: str | None = None) -> Call[User]:
    """Make a user (admin). Not sent again after a lost answer."""
    return Call("POST", f"{top}/users", reader(User), body=body(name=name, role=role, plan=plan))


def update_user(
    top: str,
    user_id: str,
    *,
    name: str | None = None,
    role: str | None = None,
    plan: str | None = None,
    disabled: bool | None = None,
) -> Call[User]:
    """Change what is given (admin)."""
    wish = body(name=name, role=role, plan=plan, disabled=disabled)
    return Call("PATCH", f"{top}/users/{part(user_id)}", reader(User), body=wish, safe=True)


def remove_user(top: str, user_id: str) -> Call[None]:
    """Remove a user (admin)."""
    path = f"{top}/users/{part(user_id)}"
    return Call("DELETE", path, _nothing, safe=True, again=lambda: None)


def usage(
    top: str, *, from_: When | None = None, to: When | None = None, by: str | None = None
) -> Call[Usage]:
    """Compute seconds by ``day``, ``sandbox``, ``key`` or ``total``."""
    asked = query(from_=_moment(from_), to=_moment(to), by=by)
    return Call("GET", f"{top}/usage", reader(Usage), query=asked, safe=True)


def usage_csv(
    top: str, *, from_: When | None = None, to: When | None = None, by: str | None = None
) -> Call[str]:
    """The same as CSV."""
    asked = query(from_=_moment(from_), to=_moment(to), by=by, format="csv")
    return Call("GET", f"{top}/usage", bytes.decode, query=asked, safe=True)


def audit(
    top: str,
    *,
    limit: int | None = None,
    before: str | int | None = None,
    sandbox_id: str | None = None,
    user_id: str | None = None,
    action: str | None = None,
) -> Call[Audit]:
    """Who did what, newest first; ``next`` of one page is ``before`` of the next."""
    parts = (
        query(limit=limit, before=before),
        query(sandboxId=sandbox_id, userId=user_id, action=action),
    )
    asked = "&".join(part for part in parts if part)
    return Call("GET", f"{top}/audit", reader(Audit), query=asked, safe=True)


def metrics(top: str, *, sandboxes: bool = False) -> Call[str]:
    """What the whole daemon counts, in Prometheus' text format; for whom the operator lets."""
    return Call("GET", "//metrics", bytes.decode, query=query(sandboxes=sandboxes), safe=True)


HEALTH = Request("GET", "//healthz", (("Accept", "application/json"),), None, 10.0)
_read_health = reader(Health)


def read_health(status: int, data: bytes) -> Health:
    """The document, also of a 503: that is what it is for. Raises ``ApiError`` for what has none."""
    if status == 200 or (status == 503 and data.startswith(b'{"status":"')):
        return _read_health(data)
    raise from_answer(status, data)


def _nothing(data: bytes) -> None:
    """Whatever it says, it is done."""


def _moment(when: When | None) -> str | None:
    return when.isoformat().replace("+00:00", "Z") if isinstance(when, date) else when
