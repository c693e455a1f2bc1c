"""Taking projects from a pool, on a file system that the test plays."""

from __future__ import annotations

import errno
import os

import pytest

from nsbox.host import quota
from nsbox.kernel import projects
from nsbox.plan import storage

MIB = storage.MIB


class Kernel:
    """Who counts for which project, and which limits are in force."""

    def __init__(self, pool: quota.Pool) -> None:
        self.limits = {
            one.first + index: (one.size, one.inodes) for one in pool.classes for index in range(one.count)
        }
        self.used: dict[int, int] = {}
        self.given: dict[int, int] = {}
        self.full: set[int] = set()

    def give(self, directory: int, project: int) -> None:
        if project in self.full:
            raise OSError(errno.EDQUOT, "full")
        before = self.given.get(directory)
        if before is not None:
            self.used[before] -= 1
        self.given[directory] = project
        self.used[project] = self.used.get(project, 0) + 1

    def shown(self, directory: int) -> projects.Shown:
        project = self.given[directory]
        size, inodes = self.limits.get(project, (1 << 40, 1 << 30))
        return projects.Shown(size, inodes, self.used[project])


@pytest.fixture
def pool() -> quota.Pool:
    return quota.laid_out(1000, storage.sizes(16, 64), 64 * MIB, 3)


@pytest.fixture
def kernel(pool: quota.Pool, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel(pool)
    monkeypatch.setattr(projects, "give", made.give)
    monkeypatch.setattr(projects, "shown", made.shown)
    return made


def test_projects_do_not_overlap(pool: quota.Pool) -> None:
    numbers = [one.first + index for one in pool.classes for index in range(one.count)]
    assert len(set(numbers)) == len(numbers) == pool.count
    assert {one.count for one in pool.classes} == {3, quota.OTHERS}


def test_each_directory_gets_one_of_its_own_until_none_is_left(pool: quota.Pool, kernel: Kernel) -> None:
    taker = quota.Projects(pool)
    assert [taker.take(directory, 64 * MIB) is not None for directory in range(4)] == [True] * 3 + [False]
    assert len({kernel.given[directory] for directory in range(3)}) == 3
    kernel.used[kernel.given[1]] = 0  # its sandbox is deleted
    assert taker.take(5, 64 * MIB) is not None


def test_another_taker_without_memory_takes_none_that_is_in_use(pool: quota.Pool, kernel: Kernel) -> None:
    assert quota.Projects(pool).take(0, 64 * MIB) is not None
    assert quota.Projects(pool).take(1, 64 * MIB) is not None
    assert kernel.given[0] != kernel.given[1]


def test_one_that_is_full_is_passed_over(pool: quota.Pool, kernel: Kernel) -> None:
    first = next(one for one in pool.classes if one.count == 3).first
    kernel.full = {first}
    assert quota.Projects(pool).take(0, 64 * MIB) is not None
    assert kernel.given[0] == first + 1


def test_a_size_without_a_class(pool: quota.Pool, kernel: Kernel) -> None:
    assert quota.Projects(pool).take(0, 4096 * MIB) is None
    assert kernel.given == {}


def test_limits_that_are_not_in_force_are_found_out(pool: quota.Pool, kernel: Kernel) -> None:
    kernel.limits.clear()
    with pytest.raises(quota.NotInForceError):
        quota.Projects(pool).take(0, 64 * MIB)


def test_a_file_system_without_projects(pool: quota.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    def give(directory: int, project: int) -> None:
        raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))

    monkeypatch.setattr(projects, "give", give)
    with pytest.raises(quota.NotInForceError):
        quota.Projects(pool).take(0, 64 * MIB)
