"""Paths back to operations."""

from __future__ import annotations

import re
from functools import cache

from nsbox.api.operations import OPERATIONS
from nsbox.api.operations.declare import Operation

_NAMED = re.compile(r"(\{[^}]+\})")


def methods(path: str) -> list[str]:
    """The methods that a path has; none where there is no such path."""
    found = {one.method for pattern, one in _patterns() if pattern.fullmatch(path)}
    return sorted({*found, "HEAD"} if "GET" in found else found)


def operation(method: str, path: str) -> Operation | None:
    """The operation that a request is for; of several the most literal."""
    found = [one for pattern, one in _patterns() if one.method == method and pattern.fullmatch(path)]
    return min(found, key=lambda one: one.path.count("{"), default=None)


@cache
def _patterns() -> list[tuple[re.Pattern[str], Operation]]:
    return [(_pattern(one.path), one) for one in OPERATIONS]


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile("".join(_part(part) for part in _NAMED.split(path)))


def _part(part: str) -> str:
    if part.startswith("{"):
        return "(.+)" if part == "{image}" else "([^/]+)"  # an image's name may have slashes
    return re.escape(part)
