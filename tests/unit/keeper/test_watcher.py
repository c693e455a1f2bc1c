"""What the storage watcher tells, look by look, on real files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbox.keeper import watcher

MIB = 1 << 20


class Looks:
    """A folder of sandboxes, and a watcher that measures at each look."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self.rounds = watcher.Rounds(self.descriptor)

    def sandbox(self, name: str, size: int = 4 * MIB, inodes: int = 100) -> Path:
        (self.folder / name / "upper").mkdir(parents=True)
        watcher.mark(str(self.folder / name), size, inodes)
        return self.folder / name / "upper"

    def look(self) -> list[tuple[str, bool]]:
        self.rounds._measured = 0.0  # as if the longest time had passed
        return [(one.id, one.over) for one in self.rounds.look()]


@pytest.fixture
def looks(tmp_path: Path) -> Iterator[Looks]:
    made = Looks(tmp_path)
    yield made
    os.close(made.descriptor)


def write(path: Path, mib: int) -> None:
    with path.open("wb") as file:
        file.write(os.urandom(mib * MIB))


def test_nobody_is_told_of_who_stays_below(looks: Looks) -> None:
    write(looks.sandbox("one") / "file", 3)
    (looks.folder / "unmarked/upper").mkdir(parents=True)
    write(looks.folder / "unmarked/upper/file", 8)
    assert looks.look() == []


def test_above_and_below_are_told_once(looks: Looks) -> None:
    upper = looks.sandbox("one")
    looks.sandbox("other")
    write(upper / "file", 5)
    assert looks.look() == [("one", True)]
    assert looks.look() == []
    assert looks.look() == []
    os.unlink(upper / "file")
    assert looks.look() == [("one", False)]
    assert looks.look() == []


def test_what_was_written_until_the_end_came_is_no_second_offence(looks: Looks) -> None:
    upper = looks.sandbox("one")
    write(upper / "file", 5)
    assert looks.look() == [("one", True)]
    write(upper / "until-it-was-dead", 3)
    assert looks.look() == []
    (upper / "note").write_text("removing files")
    assert looks.look() == []
    write(upper / "again", 2)
    assert looks.look() == [("one", True)]


def test_many_littles_are_found_out(looks: Looks) -> None:
    upper = looks.sandbox("one")
    write(upper / "file", 5)
    looks.look()
    looks.look()
    told = []
    for number in range(8):
        (upper / f"little{number}").write_bytes(os.urandom(MIB // 4))
        told += looks.look()
    assert told == [("one", True)]


def test_inodes_count_as_well(looks: Looks) -> None:
    upper = looks.sandbox("one", inodes=10)
    for number in range(11):
        (upper / str(number)).touch()
    assert looks.look() == [("one", True)]


def test_one_that_is_gone_is_forgotten(looks: Looks) -> None:
    upper = looks.sandbox("one")
    write(upper / "file", 5)
    looks.look()
    os.rename(looks.folder / "one", looks.folder.parent / "away")
    assert looks.look() == []
    assert looks.rounds._over == {}
