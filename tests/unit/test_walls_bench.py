"""``sh scripts/bench --only walls`` takes pieces of text out of the product: that they are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.walls import WALLS, Wall, take_out
from nsbox.model.errors import HostProblem

_TOP = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("wall", WALLS, ids=lambda one: one.name)
def test_a_wall_is_where_it_is_said_to_be(wall: Wall, tmp_path: Path) -> None:
    for file, text, instead in wall.edits:
        copy = tmp_path / "copy.py"
        copy.write_bytes((_TOP / file).read_bytes())
        take_out(copy, text, instead)
        compile(copy.read_text(), file, "exec")
        with pytest.raises(HostProblem):
            take_out(copy, text, instead)
