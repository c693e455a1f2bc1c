"""THE table: which scope each route needs. A route that is not in it is refused, and a test fails.

The check comes before anything else is looked at but the key, so that it tells nothing about what exists.
"""

from __future__ import annotations

from typing import NamedTuple

from nsbox.model.account import Caller, Grant, Scope
from nsbox.model.errors import Code, Problem

BASE = "/api/v1"
_SAFE = frozenset({"GET", "HEAD"})
_SANDBOXES, _FILES = frozenset({Scope.SANDBOXES}), frozenset({Scope.FILES})
_IMAGES, _ADMIN = frozenset({Scope.IMAGES}), frozenset({Scope.ADMIN})
#: What images there are is also for who makes sandboxes of them.
_LIBRARY = frozenset({Scope.SANDBOXES, Scope.IMAGES})
#: One's own account: every key; to change something there, one that may change anything at all.
_ANY = frozenset(Scope) - {Scope.READ_ONLY}


class Need(NamedTuple):
    """One of these areas, and whether it is changed."""

    areas: frozenset[Scope]
    changes: bool
    everybody: bool = False


_ROUTES: dict[str, frozenset[Scope]] = {
    "POST /sandboxes": _SANDBOXES,
    "GET /sandboxes": _SANDBOXES,
    "GET /sandboxes/<sandbox_id>": _SANDBOXES,
    "DELETE /sandboxes/<sandbox_id>": _SANDBOXES,
    "POST /sandboxes/<sandbox_id>/pause": _SANDBOXES,
    "POST /sandboxes/<sandbox_id>/resume": _SANDBOXES,
    "POST /sandboxes/<sandbox_id>/timeout": _SANDBOXES,
    "PUT /sandboxes/<sandbox_id>/lifecycle": _SANDBOXES,
    "GET /sandboxes/<sandbox_id>/metrics": _SANDBOXES,
    "POST /sandboxes/<sandbox_id>/exec": _SANDBOXES,
    "POST /sandboxes/<sandbox_id>/processes": _SANDBOXES,
    "GET /sandboxes/<sandbox_id>/processes": _SANDBOXES,
    "DELETE /sandboxes/<sandbox_id>/processes": _SANDBOXES,
    "GET /sandboxes/<sandbox_id>/processes/<key>": _SANDBOXES,
    "DELETE /sandboxes/<sandbox_id>/processes/<key>": _SANDBOXES,
    "GET /sandboxes/<sandbox_id>/processes/<key>/wait": _SANDBOXES,
    "POST /sandboxes/<sandbox_id>/processes/<key>/signal": _SANDBOXES,
    "POST /sandboxes/<sandbox_id>/processes/<key>/stdin": _SANDBOXES,
    "GET /sandboxes/<sandbox_id>/processes/<key>/logs": _SANDBOXES,
    "POST /sandboxes/<sandbox_id>/processes/<key>/ticket": _SANDBOXES,
    "GET /sandboxes/<sandbox_id>/processes/<key>/attach": _SANDBOXES,
    "GET /sandboxes/<sandbox_id>/files": _FILES,
    "PUT /sandboxes/<sandbox_id>/files": _FILES,
    "DELETE /sandboxes/<sandbox_id>/files": _FILES,
    "POST /sandboxes/<sandbox_id>/files/ticket": _FILES,
    "GET /sandboxes/<sandbox_id>/ports": _SANDBOXES,
    "POST /sandboxes/<sandbox_id>/ports": _SANDBOXES,
    "DELETE /sandboxes/<sandbox_id>/ports/<port>": _SANDBOXES,
    "POST /sandboxes/<sandbox_id>/ports/<port>/links": _SANDBOXES,
    "GET /sandboxes/<sandbox_id>/network": _SANDBOXES,
    "PUT /sandboxes/<sandbox_id>/network": _SANDBOXES,
    "GET /sandboxes/<sandbox_id>/network/log": _SANDBOXES,
    "POST /sandboxes/<sandbox_id>/snapshots": _SANDBOXES,
    "GET /sandboxes/<sandbox_id>/snapshots": _SANDBOXES,
    "POST /sandboxes/<sandbox_id>/fork": _SANDBOXES,
    "GET /sandboxes/<sandbox_id>/diff": _SANDBOXES,
    "GET /snapshots": _SANDBOXES,
    "GET /snapshots/<snapshot_id>": _SANDBOXES,
    "DELETE /snapshots/<snapshot_id>": _SANDBOXES,
    "GET /snapshots/<snapshot_id>/diff": _SANDBOXES,
    "GET /snapshots/<snapshot_id>/export": _SANDBOXES,
    "POST /snapshots/<snapshot_id>/export/ticket": _SANDBOXES,
    "POST /images/export/ticket": _LIBRARY,
    "GET /images": _LIBRARY,
    "GET /images/<path:name>": _LIBRARY,
    "GET /images/export": _LIBRARY,
    "POST /images": _IMAGES,
    "POST /images/import": _IMAGES,
    "POST /images/push": _IMAGES,
    "POST /snapshots/<snapshot_id>/push": _IMAGES,
    "POST /images/prune": _IMAGES,
    "DELETE /images/<path:name>": _IMAGES,
    "GET /templates": _LIBRARY,
    "POST /templates": _IMAGES,
    "GET /usage": _SANDBOXES,
    "GET /me": _ANY,
    "GET /audit": _ANY,
    "GET /keys": _ANY,
    "POST /keys": _ANY,
    "DELETE /keys/<key_id>": _ANY,
    "GET /users": _ADMIN,
    "POST /users": _ADMIN,
    "GET /users/<user_id>": _ADMIN,
    "PATCH /users/<user_id>": _ADMIN,
    "DELETE /users/<user_id>": _ADMIN,
}
#: Whether something is changed, where the method does not tell: this one is GET, and types into a terminal.
_CHANGES = {"GET /sandboxes/<sandbox_id>/processes/<key>/attach": True}


def _need(route: str, areas: frozenset[Scope]) -> Need:
    changes = _CHANGES.get(route, route.partition(" ")[0] not in _SAFE)
    return Need(areas, changes, everybody=areas is _ANY and not changes)


TABLE: dict[tuple[str, str], Need] = {
    (route.partition(" ")[0], BASE + route.partition(" ")[2]): _need(route, areas)
    for route, areas in _ROUTES.items()
}


def allows(caller: Caller, need: Need) -> bool:
    """Whether the key may."""
    return need.everybody or any(Grant(area, need.changes) in caller.grants for area in need.areas)


def check(caller: Caller, method: str, rule: str) -> None:
    """Raises ``FORBIDDEN`` when the key may not, or nobody has said what the route needs."""
    need = TABLE.get(("GET" if method == "HEAD" else method, rule))
    if need is None:
        raise Problem(Code.FORBIDDEN, "this route is open to no key", remedy="tell the operator")
    if allows(caller, need):
        return
    if any(grant.area in need.areas for grant in caller.grants):
        raise Problem(Code.FORBIDDEN, "this key may only read", scope="read-only")
    wanted = sorted(need.areas)
    raise Problem(
        Code.FORBIDDEN,
        f"this key does not have the scope {' or '.join(wanted)}",
        remedy="use a key that has it: GET /me tells what a key has",
        scope=wanted[0],
    )
