"""What a release is made of: the lock, the licences, and a wheel that is the same wherever it is made."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tests.supply import licences, locked

TOP = locked.TOP
LOCKED = locked.LOCK.read_text(encoding="utf-8")
TRIO = "trio==0.35.0 \\\n    --hash=sha256:" + "0" * 64 + "\n"


def test_the_lock_is_what_pyproject_wants() -> None:
    assert list(locked.complaints(LOCKED)) == []


def test_what_a_lock_lacks_is_told() -> None:
    wrong = list(locked.complaints(TRIO.replace("0.35.0", "99.0") + "other==1\n# https://index.example\n"))
    assert "trio<1,>=0.30 is wanted, and 99.0 locked" in wrong
    assert "hypercorn: 0 versions for Python 3.11" in wrong
    assert "other has no hash" in wrong
    assert "it names an address" in wrong
    assert "trio: 2 versions for Python 3.12" in list(locked.complaints(TRIO + TRIO))
    assert "trio: md5:0 is no sha256" in list(
        locked.complaints("trio==0.35.0 --hash=md5:0\n".replace(" --", " \\\n --"))
    )


def test_a_lock_is_read_as_it_is_written() -> None:
    pins = list(locked.pins(LOCKED))
    assert len(pins) > 30
    assert [*locked.pins("\n".join(locked.line(one) for one in pins))] == pins
    for python in locked.PYTHONS:
        names = [one.name for one in pins if python in one.pythons]
        assert len(set(names)) == len(names)


def test_licences_are_known_and_go_together_with_ours() -> None:
    told = list(licences.rows(licences.PAGE.read_text(encoding="utf-8")))
    assert {(name, version) for name, version, _ in told} == {
        (one.name, one.version) for one in locked.pins(LOCKED)
    }, "remedy: sh scripts/lock"
    assert [row for row in told if not licences.is_compatible(row[2])] == []
    for name, version, licence in told:
        if metadata.version(name) == version:
            assert licences.licence_of(name) == licence, name


@pytest.mark.parametrize(
    ("expression", "is_so"),
    [
        ("MIT", True), ("MIT OR Proprietary", True), ("MIT AND Proprietary", False), ("GPL-2.0-only", False),
        ("unknown", False), ("", False), ("(Apache-2.0 AND MIT)", True),
        ("GPL-2.0-or-later OR Apache-2.0", True),
    ],
)  # fmt: skip
def test_which_licences_go_together(expression: str, is_so: bool) -> None:
    assert licences.is_compatible(expression) is is_so


def _built(folder: Path, epoch: str, umask: int) -> tuple[str, str]:
    """The wheel's name and hash, from sources that were copied there just now."""
    folder.mkdir(parents=True)
    source = folder / "checkout"
    source.mkdir()
    for name in (
        "nsbox",
        "bench",
        "images",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "NOTICE",
        "nsbox.service",
    ):
        if (TOP / name).is_dir():
            shutil.copytree(
                TOP / name,
                source / name,
                ignore=shutil.ignore_patterns("__pycache__"),
                copy_function=shutil.copy,
            )
        else:
            shutil.copy(TOP / name, source / name)
    for path in source.rglob("*"):
        os.utime(path, (umask * 1000, umask * 1000))
        path.chmod(
            0o777 & ~umask
            if path.is_dir() or (os.access(path, os.X_OK) and path.stat().st_mode & 0o100)
            else 0o666 & ~umask
        )
    subprocess.run(
        [sys.executable, "-P", "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "out")],
        cwd=source, check=True, capture_output=True, umask=umask, timeout=120,
        env={**os.environ, "SOURCE_DATE_EPOCH": epoch, "TZ": "Asia/Tokyo" if umask else "UTC"},
    )  # fmt: skip
    (wheel,) = (folder / "out").iterdir()
    return wheel.name, hashlib.sha256(wheel.read_bytes()).hexdigest()


def test_a_wheel_is_the_same_wherever_and_whenever_it_is_made(tmp_path: Path) -> None:
    """Another folder, other times of the files, another umask and time zone; and SOURCE_DATE_EPOCH counts."""
    first = _built(tmp_path / "a", "1800000000", 0o022)
    assert _built(tmp_path / "another" / "place", "1800000000", 0o077) == first
    assert _built(tmp_path / "c", "1800086400", 0o022) != first
