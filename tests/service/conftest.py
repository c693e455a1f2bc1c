"""Fixtures for tests of an installed nsbox: as root, in the machine of ``tests/host`` and nowhere else."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.client import Api
from tests.service.machine import Drop, Service, sh


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """They stop services, take system files away and forbid things to a whole host."""
    if os.environ.get("NSBOX_HOST") == "1" and os.geteuid() == 0:
        return
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.skip("breaks the host it runs on: sh scripts/test-host"))


@pytest.fixture
def service() -> Iterator[Service]:
    """nsbox.service as setup wrote it, up, whatever the test before did to it."""
    one = Service()
    one.ensure()
    try:
        yield one
    finally:
        one.close()


@pytest.fixture
def api(service: Service) -> Api:
    return service.api()


@pytest.fixture
def stopped() -> Iterator[None]:
    """The system's service is out of the way."""
    sh("systemctl stop nsbox")
    yield
    sh("systemctl start nsbox")


@pytest.fixture
def drop_in() -> Iterator[Callable[[str], None]]:
    """Settings added to the unit for one test."""
    drop = Drop()
    try:
        yield drop.write
    finally:
        drop.remove()


@pytest.fixture
def mend() -> Iterator[Callable[[str], None]]:
    """Shell lines that undo what a test broke, the last one first, also when the test fails."""
    lines: list[str] = []
    yield lines.append
    for line in reversed(lines):
        subprocess.run(["bash", "-c", line], check=True, capture_output=True, timeout=120)
