"""Users and keys over the API: who may make, change and take away what.

Each use case is one transaction on a connection whose commits are on disk when they return. The command line
works on the tables themselves: whoever owns the state folder may do anything, also what is refused here.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec

from nsbox.model.account import Caller, KeyRecord, Role, Scope, User, grants
from nsbox.model.errors import Code, Problem
from nsbox.store import keys, users
from nsbox.store.database import Database

#: Keys in force that a user may have.
MAX_KEYS = 100
T = TypeVar("T")


class KeyWish(msgspec.Struct, frozen=True, kw_only=True):
    """A key that somebody wants. None: as the key that asks."""

    name: str
    scopes: tuple[Scope, ...] | None = None
    expires_at: float | None = None


class UserChange(msgspec.Struct, frozen=True, kw_only=True):
    """What shall be different about a user. None: nothing."""

    name: str | None = None
    role: Role | None = None
    plan: str | None = None
    disabled: bool | None = None


class Accounts:
    """The use cases. ``database`` is durable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # ---- users; that the caller is an administrator has been seen

    async def users(self) -> list[User]:
        """All of them, oldest first."""
        return await self._database.read(users.everybody)

    async def user(self, user_id: str) -> User:
        """Raises ``USER_NOT_FOUND``."""
        return await self._database.read(lambda connection: _user(connection, user_id))

    async def add_user(self, name: str, role: Role, plan: str) -> User:
        """Raises ``NAME_TAKEN``."""
        return await self._database.run(
            lambda connection: _named(lambda: users.insert(connection, name, role, plan))
        )

    async def change_user(self, user_id: str, change: UserChange) -> User:
        """The user as it is now. Raises ``NAME_TAKEN``, ``LAST_ADMIN``."""

        def work(connection: sqlite3.Connection) -> User:
            user = _changed(_user(connection, user_id), change)
            _named(lambda: users.replace(connection, user))
            return user

        return await self._run_guarded(work)

    async def remove_user(self, user_id: str) -> User:
        """With all keys. Raises ``USER_NOT_EMPTY``: what is left would be nobody's; ``LAST_ADMIN``."""

        def work(connection: sqlite3.Connection) -> User:
            user = _user(connection, user_id)
            held = users.holdings(connection, user_id)
            if any(held):
                raise Problem(
                    Code.USER_NOT_EMPTY,
                    f"the user has {held.sandboxes} sandboxes alive and keeps {held.snapshots} snapshots",
                    remedy="disable the user, end and remove those (with the header Nsbox-User), try again",
                    sandboxes=held.sandboxes,
                    snapshots=held.snapshots,
                )
            keys.remove_all(connection, user_id)
            users.remove(connection, user_id)
            return user

        return await self._run_guarded(work)

    # ---- keys

    async def keys(self, owner: str | None) -> list[KeyRecord]:
        """Of one user, or all; dead ones too, oldest first."""
        return await self._database.read(lambda connection: keys.of_user(connection, owner))

    async def make_key(self, caller: Caller, wish: KeyWish) -> tuple[KeyRecord, str]:
        """A key of the caller's subject, and its plaintext, which is nowhere else. Raises ``FORBIDDEN`` for
        what the caller's own key does not have, and ``TOO_MANY_KEYS``."""
        if not caller.administers:
            wish = _within_own(caller, wish)

        def work(connection: sqlite3.Connection) -> tuple[KeyRecord, str]:
            asking = keys.get(connection, caller.key.id)
            if asking is None or not asking.in_force(time.time()):  # it has been revoked just now
                raise Problem(Code.INVALID_KEY, "the API key is revoked or has expired")
            user = _user(connection, caller.owner)
            if wish.scopes is not None and Scope.ADMIN in wish.scopes and user.role is not Role.ADMIN:
                raise Problem(
                    Code.INVALID_FIELD, "keys with the scope admin are for administrators", field="scopes"
                )
            now = time.time()
            if sum(one.in_force(now) for one in keys.of_user(connection, user.id)) >= MAX_KEYS:
                detail = f"the user has {MAX_KEYS} keys in force"
                raise Problem(Code.TOO_MANY_KEYS, detail, remedy="revoke one", limit=MAX_KEYS)
            return keys.insert(connection, wish.name, user, wish.scopes, wish.expires_at)

        return await self._database.run(work)

    async def revoke_key(self, caller: Caller, key_id: str) -> KeyRecord:
        """Idempotent; returning means that it is refused from now on. Raises ``KEY_NOT_FOUND``, also for a
        key of somebody else's, and ``LAST_ADMIN``."""

        def work(connection: sqlite3.Connection) -> KeyRecord:
            record = keys.get(connection, key_id)
            if record is None or not (caller.administers or record.owner == caller.owner):
                raise Problem(Code.KEY_NOT_FOUND, f"there is no key {key_id}")
            # A key for files alone, lost somewhere, must not lock out its user.
            if not caller.administers and not grants(record.scopes) <= grants(caller.key.scopes):
                raise Problem(
                    Code.FORBIDDEN,
                    "a key cannot revoke one that may do more",
                    remedy="use that key itself, or one with its scopes",
                )
            keys.revoke(connection, key_id)
            return _key(connection, key_id)

        return await self._run_guarded(work)

    async def _run_guarded(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Whatever would leave nobody who can make keys is undone. Where nobody could before, all goes on."""

        def guarded(connection: sqlite3.Connection) -> T:
            before = keys.administrators(connection)
            result = work(connection)
            if before and not keys.administrators(connection):
                raise Problem(
                    Code.LAST_ADMIN,
                    "afterwards no key of an administrator would be left",
                    remedy="make another one first, or use the command line: nsbox keys, nsbox users",
                )
            return result

        return await self._database.run(guarded)


def _within_own(caller: Caller, wish: KeyWish) -> KeyWish:
    """What a key may give: what it has itself, for as long as it lasts itself."""
    own = caller.key
    scopes = own.scopes if wish.scopes is None else wish.scopes
    # Without the role: the user may have another one tomorrow.
    if not grants(scopes) <= grants(own.scopes):
        raise Problem(
            Code.FORBIDDEN,
            "a key cannot make one that may do more than it may itself",
            field="scopes",
            remedy=f"leave scopes out, or take some of: {', '.join(own.scopes)}",
        )
    expires_at = own.expires_at if wish.expires_at is None else wish.expires_at
    if own.expires_at is not None and (expires_at is None or expires_at > own.expires_at):
        raise Problem(
            Code.FORBIDDEN,
            "a key cannot make one that lasts longer than itself",
            field="expiresAt",
            remedy="leave expiresAt out: the new key then expires when this one does",
        )
    return msgspec.structs.replace(wish, scopes=scopes, expires_at=expires_at)


def _changed(user: User, change: UserChange) -> User:
    disabled_at = user.disabled_at
    if change.disabled is not None:
        disabled_at = (disabled_at or time.time()) if change.disabled else None
    return msgspec.structs.replace(
        user,
        name=user.name if change.name is None else change.name,
        role=user.role if change.role is None else change.role,
        plan=user.plan if change.plan is None else change.plan,
        disabled_at=disabled_at,
    )


def _user(connection: sqlite3.Connection, user_id: str) -> User:
    user = users.get(connection, user_id)
    if user is None:
        raise Problem(Code.USER_NOT_FOUND, f"there is no user {user_id}")
    return user


def _key(connection: sqlite3.Connection, key_id: str) -> KeyRecord:
    record = keys.get(connection, key_id)
    assert record is not None
    return record


def _named(work: Callable[[], T]) -> T:
    try:
        return work()
    except users.NameTakenError as error:
        raise Problem(Code.NAME_TAKEN, "another user has this name", field="name") from error
