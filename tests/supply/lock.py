"""Writes ``requirements.lock`` from what uv found, and the table of licences: see ``scripts/lock``."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.supply import licences, locked

_HEAD = """\
# What a release of nsbox is installed with: pip install --require-hashes -r requirements.lock
# For CPython 3.11 to 3.13 on Linux. Made by `sh scripts/lock`; do not edit.
"""


def main(found: str, folder: str) -> int:
    pins = [one for one in locked.pins(Path(found).read_text(encoding="utf-8")) if one.pythons]
    text = _HEAD + "".join(f"{locked.line(one)}\n" for one in pins)
    wrong = list(locked.complaints(text))
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
        return 1
    (Path(folder) / locked.LOCK.name).write_text(text, encoding="utf-8")
    (Path(folder) / licences.PAGE.name).write_text(licences.page(text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
