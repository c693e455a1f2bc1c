from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from nsbox.model.errors import HostProblem
from nsbox.service.embedding import _check_room, remove_unused


class FakeKeeper:
    """Says which tasks it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    async def task(self, key: str, name: str, argument: str, descriptors: Sequence[int]) -> int:
        assert len(descriptors) == 3
        self.asked.append((name, argument))
        return 0


async def test_only_layers_of_old_default_templates_go(tmp_path: Path) -> None:
    for name in ("default-old", "default-used", "default-half.partial", "sha256-of-an-image"):
        (tmp_path / "layers" / name).mkdir(parents=True)
    (tmp_path / "templates").mkdir()
    for name in ("default-old", "default-used"):
        (tmp_path / "templates" / f"{name}.json").write_text("{}")
    keeper = FakeKeeper()
    await remove_unused(str(tmp_path), keeper, {"default-used"})  # type: ignore[arg-type]
    assert sorted(keeper.asked) == [
        ("remove-layer", "default-half.partial"),
        ("remove-layer", "default-old"),
    ]
    assert [one.name for one in (tmp_path / "templates").iterdir()] == ["default-used.json"]


def test_a_disk_without_room_is_refused_before_anything_is_copied(tmp_path: Path) -> None:
    _check_room(str(tmp_path), 1)
    with pytest.raises(HostProblem, match="no space for the default template") as caught:
        _check_room(str(tmp_path), 1152921504606 << 20)
    assert "--state-dir" in (caught.value.remedy or "")
