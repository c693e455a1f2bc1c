"""What tests of keeper share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nsbox.keeper import core
from tests.fuzz.descriptors import none_leaked
from tests.unit.keeper.fakes import World


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with none_leaked():
        made = World()
        monkeypatch.setattr(core.os, "waitpid", made.kernel.waitpid)
        yield made
        made.close()
