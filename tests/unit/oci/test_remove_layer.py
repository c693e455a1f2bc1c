from __future__ import annotations

from pathlib import Path

import pytest

from nsbox.oci import remove_layer


def test_a_layer_goes_with_all_in_it(tmp_path: Path) -> None:
    layer = tmp_path / "default-0"
    (layer / "usr" / "bin").mkdir(parents=True)
    (layer / "usr" / "bin" / "sh").write_text("x")
    (layer / "outside").symlink_to(tmp_path / "kept")
    (tmp_path / "kept").write_text("canary")
    assert remove_layer.main([str(layer)]) == 0
    assert [one.name for one in tmp_path.iterdir()] == ["kept"]


def test_one_that_is_gone_is_no_error(tmp_path: Path) -> None:
    assert remove_layer.main([str(tmp_path / "none")]) == 0


def test_what_cannot_be_removed_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    assert remove_layer.main([str(tmp_path / "file" / "layer")]) == 1
    assert "layer" in capsys.readouterr().err
