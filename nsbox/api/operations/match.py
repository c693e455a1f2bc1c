"""Paths back to operations."""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

from nsbox.api.operations import OPERATIONS
from nsbox.api.operations.declare import Operation
from nsbox.model.errors import Code, Problem

_NAMED = re.compile(r"(\{[^}]+\})")


def methods(path: str) -> list[str]:
    """The methods that a path has; none where there is no such path. Of several paths it is the most literal,
    as OpenAPI has it: /images/export is not an image."""
    found = [one for pattern, one in _patterns() if pattern.fullmatch(path)]
    fewest = min((one.path.count("{") for one in found), default=0)
    here = {one.method for one in found if one.path.count("{") == fewest}
    return sorted({*here, "HEAD"} if "GET" in here else here)


def check(method: str, path: str) -> None:
    """Raises ``METHOD_NOT_ALLOWED`` where a path is there, and its method is not."""
    allowed = methods(path)
    if allowed and method not in allowed:
        raise Problem(Code.METHOD_NOT_ALLOWED, f"the route takes {', '.join(allowed)}", allowed=allowed)


def operation(method: str, path: str) -> Operation | None:
    """The operation that a request is for; of several the most literal."""
    found = [one for pattern, one in _patterns() if one.method == method and pattern.fullmatch(path)]
    return min(found, key=lambda one: one.path.count("{"), default=None)


class Place(NamedTuple):
    """What a path says: the operation, which sandbox, and the last other thing that it names."""

    name: str
    sandbox: str | None
    target: str | None


def place(method: str, path: str) -> Place | None:
    """Called for each request that changes something, so only paths of its method are tried."""
    for pattern, one in _by_method().get(method, ()):
        if found := pattern.fullmatch(path):
            named = dict(zip(_NAMED.findall(one.path), found.groups(), strict=True))
            sandbox = named.pop("{sandboxId}", None)
            return Place(one.name, sandbox, next(reversed(named.values()), None))
    return None


def name(method: str, path: str) -> str:
    """The operation's name; empty where there is none, or where it changes nothing and so takes no body."""
    if method in ("GET", "HEAD"):
        return ""
    return next((one.name for pattern, one in _by_method().get(method, ()) if pattern.fullmatch(path)), "")


@cache
def _by_method() -> dict[str, list[tuple[re.Pattern[str], Operation]]]:
    """The most literal paths first."""
    sorted_ = sorted(_patterns(), key=lambda pair: pair[1].path.count("{"))
    return {one.method: [pair for pair in sorted_ if pair[1].method == one.method] for one in OPERATIONS}


@cache
def _patterns() -> list[tuple[re.Pattern[str], Operation]]:
    return [(_pattern(one.path), one) for one in OPERATIONS]


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile("".join(_part(part) for part in _NAMED.split(path)))


def _part(part: str) -> str:
    if part.startswith("{"):
        return "(.+)" if part == "{image}" else "([^/]+)"  # an image's name may have slashes
    return re.escape(part)
