from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.descriptors import none_leaked
from tests.unit.host.inits import RunDir


@pytest.fixture
def no_descriptor_leaks(run_dir: RunDir) -> Iterator[None]:
    with none_leaked():
        yield
        run_dir.hush()


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[RunDir]:
    made = RunDir(str(tmp_path))
    yield made
    made.close()
