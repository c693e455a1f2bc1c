"""The tests of the acceptance list, and no others; arguments go to pytest. ``--list`` prints them,
``--page`` writes the table of docs/promises.md anew."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.acceptance.page import written
from tests.acceptance.rows import ROWS, named


def main(arguments: list[str]) -> int:
    if arguments == ["--list"]:
        for row in ROWS:
            for part in row.parts:
                print(f"{row.number:3}  {row.name}{f': {part.name}' if part.name else ''}")
                print("\n".join(f"       {one}" for one in part.tests))
        return 0
    if arguments == ["--page"]:
        # Where it was asked for: what runs may be a copy of the sources.
        page = Path(os.environ.get("NSBOX_CHECKOUT", ".")) / "docs" / "promises.md"
        page.write_text(written(page.read_text(encoding="utf-8")), encoding="utf-8")
        return 0
    return int(pytest.main([*named(), *arguments]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
