"""The free disk that is kept."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from nsbox.api.problems import tell
from nsbox.host.storage import Reserve
from nsbox.model.errors import Code, Problem

MIB = 1 << 20


def test_new_work_waits_for_space_and_goes_on_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SimpleNamespace(f_bavail=100 * MIB // 4096, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda path: disk)
    reserve = Reserve("/state", 64)
    reserve.check()
    with pytest.raises(Problem) as refused:
        reserve.check(50 * MIB)
    assert refused.value.code is Code.HOST_FULL
    disk.f_bavail = 10 * MIB // 4096
    with pytest.raises(Problem) as refused:
        reserve.check()
    told = tell(refused.value)
    assert told.status == 503
    assert (b"retry-after", b"10") in told.headers
    disk.f_bavail = 100 * MIB // 4096
    reserve.check()


def test_without_a_reserve_nothing_is_looked_at() -> None:
    Reserve("/nowhere", 0).check()
