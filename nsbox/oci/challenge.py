"""``WWW-Authenticate``, as registries send it (RFC 9110, 11.6.1). Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SCHEME = re.compile(rf"\s*,?\s*({_WORD})(?:\s+|$)(?!\s*=)")
_PARAMETER = re.compile(rf'\s*,?\s*({_WORD})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_WORD}))\s*')
_ESCAPE = re.compile(r"\\(.)")
_MAX_LENGTH = 8192


class Challenge(NamedTuple):
    """How a registry wants to be asked: ``basic`` or ``bearer``, and where a token is had for what."""

    scheme: str
    parameters: dict[str, str]


def parse(header: str) -> list[Challenge]:
    """All challenges of a header that can be read, in their order."""
    found: list[Challenge] = []
    position = 0
    header = header[:_MAX_LENGTH]
    while match := _SCHEME.match(header, position):
        position = match.end()
        parameters: dict[str, str] = {}
        while pair := _PARAMETER.match(header, position):
            position = pair.end()
            text = _ESCAPE.sub(r"\1", pair[2]) if pair[2] is not None else pair[3]
            parameters.setdefault(pair[1].lower(), text)
        found.append(Challenge(match[1].lower(), parameters))
    return found


def chosen(headers: list[str]) -> Challenge | None:
    """The one to answer: a token rather than the password itself."""
    all_of_them = [one for header in headers for one in parse(header)]
    for scheme in ("bearer", "basic"):
        for one in all_of_them:
            if one.scheme == scheme:
                return one
    return None
