"""Names of hosts and patterns of them. Pure, and standard library only: the network's process uses it too."""

import re
from collections.abc import Iterable

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_PATTERN = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")
_LONGEST = 253


def normal(pattern: str) -> str | None:
    """A pattern in the form that is compared: lower case, no dot at the end; None when it is none.

    ``example.com`` is that name alone; ``*.example.com`` every name below it, at any depth, and not itself.
    Other alphabets are written as DNS carries them (``xn--…``).
    """
    lowered = pattern.lower().removesuffix(".")
    if len(lowered) > _LONGEST or not _PATTERN.fullmatch(lowered) or lowered.rpartition(".")[2].isdigit():
        return None
    return lowered


def matches(patterns: Iterable[str], name: str) -> bool:
    """Whether a name (lower case, no dot at the end) is one that a pattern means."""
    return any(name == one or (one.startswith("*.") and name.endswith(one[1:])) for one in patterns)
