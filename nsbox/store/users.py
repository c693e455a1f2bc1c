"""The rows of users. Each function takes the connection: several are one transaction of the caller's."""

from __future__ import annotations

import secrets
import sqlite3
import time
from typing import NamedTuple

import msgspec

from nsbox.model.account import FIRST_USER, Role, User, good_name
from nsbox.model.errors import HostProblem
from nsbox.model.lifecycle import State

_COLUMNS = ", ".join(User.__struct_fields__)
_ALIVE = tuple(state.value for state in State if state.alive)


class UserNotFoundError(LookupError):
    """No user has this id or name."""


class NameTakenError(ValueError):
    """Another user has this name."""


class Holdings(NamedTuple):
    """What of a user's would be nobody's if the user were gone."""

    sandboxes: int
    snapshots: int


def insert(connection: sqlite3.Connection, name: str, role: Role = Role.USER, plan: str = "") -> User:
    """A new user. Raises ``NameTakenError``; ``HostProblem`` for a name that nobody can have."""
    _check(name)
    user = User(id="us_" + secrets.token_hex(16), name=name, role=role, plan=plan, created_at=time.time())
    try:
        connection.execute(
            f"INSERT INTO users ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",  # noqa: S608 (constant)
            msgspec.structs.astuple(user),
        )
    except sqlite3.IntegrityError as error:
        raise NameTakenError(name) from error
    return user


def get(connection: sqlite3.Connection, user_id: str) -> User | None:
    """The user with this id."""
    return next(iter(_select(connection, "id = ?", user_id)), None)


def find(connection: sqlite3.Connection, which: str) -> User:
    """The user with this id or else this name. Raises ``UserNotFoundError``."""
    found = _select(connection, "id = ?", which) or _select(connection, "name = ?", which)
    if not found:
        raise UserNotFoundError(which)
    return found[0]


def called(connection: sqlite3.Connection, name: str) -> User:
    """The user with this name; made, where there is none."""
    found = _select(connection, "name = ?", name)
    return found[0] if found else insert(connection, name)


def everybody(connection: sqlite3.Connection) -> list[User]:
    """All users, oldest first."""
    return _select(connection, "1", None)


def replace(connection: sqlite3.Connection, user: User) -> None:
    """Write what may change of a user. Raises ``NameTakenError``."""
    _check(user.name)
    try:
        connection.execute(
            "UPDATE users SET name = ?, role = ?, plan = ?, disabled_at = ? WHERE id = ?",
            (user.name, user.role, user.plan, user.disabled_at, user.id),
        )
    except sqlite3.IntegrityError as error:
        raise NameTakenError(user.name) from error


def remove(connection: sqlite3.Connection, user_id: str) -> None:
    """Forget a user, whose keys are gone already."""
    connection.execute("DELETE FROM users WHERE id = ?", (user_id,))


def first_admin(connection: sqlite3.Connection) -> User:
    """The oldest administrator; made, where there is none. Two processes may ask at once."""
    admins = [user for user in everybody(connection) if user.role is Role.ADMIN]
    working = [user for user in admins if user.disabled_at is None] or admins
    if working:
        return working[0]
    try:
        return insert(connection, FIRST_USER, Role.ADMIN)
    except NameTakenError:
        user = find(connection, FIRST_USER)
        if user.role is Role.ADMIN:
            return user
    return insert(connection, f"{FIRST_USER}-{secrets.token_hex(4)}", Role.ADMIN)


def holdings(connection: sqlite3.Connection, user_id: str) -> Holdings:
    """What is alive or kept of a user's."""
    marks = ", ".join("?" * len(_ALIVE))
    (sandboxes,) = connection.execute(
        f"SELECT count(*) FROM sandboxes WHERE owner = ? AND state IN ({marks})",  # noqa: S608 (marks only)
        (user_id, *_ALIVE),
    ).fetchone()
    (snapshots,) = connection.execute("SELECT count(*) FROM snapshots WHERE owner = ?", (user_id,)).fetchone()
    return Holdings(sandboxes, snapshots)


def _check(name: str) -> None:
    if not good_name(name):
        raise HostProblem("the name of a user must be 1 to 64 printable characters")


def _select(connection: sqlite3.Connection, condition: str, value: object) -> list[User]:
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM users WHERE {condition} ORDER BY created_at, id",  # noqa: S608 (constant)
        () if value is None else (value,),
    )
    return [user_of(row) for row in rows]


def user_of(row: tuple[object, ...]) -> User:
    """A row with the columns of ``User`` in their order."""
    return msgspec.convert(dict(zip(User.__struct_fields__, row, strict=True)), User)
