"""What is handed on carries its licences, and those of others whose work is in it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def vendored() -> list[str]:
    """The folders that NOTICE names as others' work."""
    lines = (ROOT / "NOTICE").read_text().splitlines()
    paths = [line.split()[0].rstrip(",") for line in lines if "/" in line.partition(" ")[0]]
    return sorted({str(Path(path).parent) for path in paths})


def licences(folder: str) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in (ROOT / folder).glob("LICENSE*")]


@pytest.mark.slow
def test_both_distributions_have_the_licences(tmp_path: Path) -> None:
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling is not installed")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path)],
        cwd=ROOT, check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as sdist:
        inside = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"LICENSE", "NOTICE", "README.md", "pyproject.toml"} <= inside
    assert len(vendored()) >= 2
    for folder in vendored():
        assert licences(folder), folder
        assert inside >= set(licences(folder))
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    assert {name.rpartition("/")[2] for name in names if ".dist-info/licenses/" in name} == {
        "LICENSE",
        "NOTICE",
    }
    for folder in vendored():
        if folder.startswith("nsbox/"):  # tests are not in the wheel
            assert names >= set(licences(folder))


def test_whatever_is_vendored_is_in_the_notice() -> None:
    folders = {str(path.parent.relative_to(ROOT)) for path in (ROOT / "nsbox").rglob("LICENSE*")}
    assert folders <= set(vendored())
