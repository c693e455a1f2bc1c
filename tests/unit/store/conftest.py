from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbox.store.database import Database


@pytest.fixture
def state_dir(tmp_path: Path) -> str:
    return str(tmp_path / "state")


@pytest.fixture
def database(state_dir: str) -> Iterator[Database]:
    database = Database(state_dir)
    yield database
    database.close()
