"""What keeper and its forks must not do, since each page they write to is a sandbox's own."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import nsbox

_ROOT = Path(nsbox.__file__).parent
_FILES = [
    path
    for folder in ("keeper", "inside", "kernel", "wire", "host/network")
    for path in sorted((_ROOT / folder).rglob("*.py"))
]


@pytest.mark.parametrize("path", _FILES, ids=lambda path: str(path.relative_to(_ROOT)))
def test_class_patterns_name_their_fields(path: Path) -> None:
    """``case Kill(key)`` has CPython 3.11 make the string ``__match_args__`` anew, and its cache of types'
    attributes keeps that: 64 bytes for each match until all 4,096 places are taken, and a write to a page
    that every init shares. ``case Kill(key=key)`` does neither. Seen in keeper: two for each sandbox."""
    found = [
        f"line {node.pattern.lineno}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.match_case)
        and isinstance(node.pattern, ast.MatchClass)
        and node.pattern.patterns
    ]
    assert found == []
