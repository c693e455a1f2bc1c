"""The tests of the acceptance list, and no others; arguments go to pytest. ``--list`` prints them instead."""

from __future__ import annotations

import sys

import pytest

from tests.acceptance.rows import ROWS, named


def main(arguments: list[str]) -> int:
    if arguments == ["--list"]:
        for row in ROWS:
            for part in row.parts:
                print(f"{row.number:3}  {row.name}{f': {part.name}' if part.name else ''}")
                print("\n".join(f"       {one}" for one in part.tests))
        return 0
    return int(pytest.main([*named(), *arguments]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
