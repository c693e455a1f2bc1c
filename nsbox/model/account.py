"""Who may do what: users, their keys, and what the scopes of a key allow. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

import msgspec


class Role(StrEnum):
    """What a user may be given."""

    ADMIN = "admin"  # keys of this user may have the scope ``admin``
    USER = "user"


class Scope(StrEnum):
    """What a key opens. All but the last name an area."""

    SANDBOXES = "sandboxes"  # create, exec, processes, ports, network, snapshots, lifecycle
    FILES = "files"  # read and write files of sandboxes
    IMAGES = "images"  # pull, import, remove, build
    ADMIN = "admin"  # users, everybody's keys, acting for a user
    READ_ONLY = "read-only"  # only what is safe; without an area: of all that is a user's own


#: What a user's own work is in.
OWN_AREAS = frozenset({Scope.SANDBOXES, Scope.FILES, Scope.IMAGES})
#: What a key has when nothing is said. Images are the host's: who may change them is the operator's choice.
DEFAULT_SCOPES = {
    Role.ADMIN: (Scope.SANDBOXES, Scope.FILES, Scope.IMAGES, Scope.ADMIN),
    Role.USER: (Scope.SANDBOXES, Scope.FILES),
}
FIRST_USER = "admin"
#: The plan of everybody for whom there is no other.
UNLIMITED = "unlimited"


class Grant(NamedTuple):
    """One thing that a key may do: look at an area, or change it."""

    area: Scope
    changes: bool


Grants = frozenset[Grant]


def grants(scopes: Iterable[Scope], role: Role = Role.ADMIN) -> Grants:
    """What a key with these scopes, of a user in this role, may do.

    ``read-only`` takes away and never gives: with areas it narrows them, alone it means the user's own areas.
    The role comes last, or a key that had ``admin`` and ``read-only`` would have more when its user has less.
    """
    named = frozenset(scopes)
    areas = named - {Scope.READ_ONLY}
    if Scope.READ_ONLY in named and not areas:
        areas = OWN_AREAS
    if role is not Role.ADMIN:
        areas -= {Scope.ADMIN}
    looking = frozenset(Grant(area, False) for area in areas)
    if Scope.READ_ONLY in named:
        return looking
    return looking | frozenset(Grant(area, True) for area in areas)


def good_name(name: str) -> bool:
    """Whether it can be the name of a user or a key: people read it in lists."""
    return 1 <= len(name) <= 64 and name.isprintable()


class User(msgspec.Struct, frozen=True, kw_only=True):
    """Whose sandboxes, snapshots and keys. ``name`` is for people, and of one user alone. ``plan`` is empty
    where nobody chose one: the user then has the one that everybody has."""

    id: str
    name: str
    role: Role = Role.USER
    plan: str = ""
    created_at: float = 0.0
    disabled_at: float | None = None


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a key. Times are wall-clock seconds. ``owner`` is the id of a user."""

    id: str
    name: str
    owner: str
    hash: bytes
    prefix: str
    created_at: float
    revoked_at: float | None = None
    last_used_at: float | None = None
    scopes: tuple[Scope, ...] = ()
    expires_at: float | None = None

    def __repr__(self) -> str:
        return f"KeyRecord({self.id}, {self.name!r}, owner={self.owner!r})"

    def in_force(self, now: float) -> bool:
        """Neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who makes a request: a key in force, and its user. ``acting_for`` is the user that an administrator
    named instead."""

    key: KeyRecord
    user: User
    grants: Grants
    acting_for: User | None = None

    @property
    def subject(self) -> User:
        """Whose things are meant."""
        return self.acting_for or self.user

    @property
    def owner(self) -> str:
        """The id of whose things are meant."""
        return self.subject.id

    @property
    def administers(self) -> bool:
        """Whether the key may change other users' things."""
        return Grant(Scope.ADMIN, True) in self.grants

    @property
    def may_act_for_others(self) -> bool:
        """Whether the key may look at other users' things; what it may change is up to its other scopes."""
        return Grant(Scope.ADMIN, False) in self.grants
