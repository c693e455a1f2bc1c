"""Health says what is so: one thing after the other is broken, and mended."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest

from nsbox.host.storage import Reserve
from nsbox.service.health import Health
from nsbox.settings import NetworkUse, Settings
from nsbox.store.database import Database
from nsbox.wire.messages import NetworkState
from tests.unit.service.conftest import Service
from tests.unit.service.fakes import SPEC


class _Keeper:
    enforced = ("pids",)

    def __init__(self) -> None:
        self.answered_at = time.monotonic()
        self.network = NetworkState(1, "")


@pytest.fixture
def keeper() -> _Keeper:
    return _Keeper()


@pytest.fixture
async def health(service: Service, database: Database, keeper: Any, settings: Settings) -> Health:
    made = Health(service.registry, keeper, Reserve("/", 0), database, settings)
    made.ready = True
    return made


def told(health: Health) -> tuple[bool, object, object]:
    fine, facts = health.health()
    return fine, facts["status"], facts["reasons"]


async def test_all_is_well(health: Health) -> None:
    await health.probe()
    assert told(health) == (True, "ok", [])
    health.ready = False
    assert told(health) == (False, "starting", [])


async def test_a_record_that_cannot_be_written(health: Health, database: Database) -> None:
    database._connection.execute("PRAGMA query_only = 1")
    await health.probe()
    assert told(health) == (False, "unavailable", ["record_not_writable"])
    database._connection.execute("PRAGMA query_only = 0")
    await health.probe()
    assert told(health) == (True, "ok", [])


async def test_a_keeper_that_does_not_answer(health: Health, keeper: _Keeper) -> None:
    keeper.answered_at -= 11
    assert told(health) == (False, "unavailable", ["keeper_away"])


async def test_a_network_that_is_down(
    service: Service, health: Health, keeper: Any, database: Database, settings: Settings
) -> None:
    keeper.network = NetworkState(0, "pasta has died")
    assert told(health) == (True, "degraded", ["network_down"])
    off = msgspec.structs.replace(settings, network=NetworkUse.OFF)
    other = Health(service.registry, keeper, Reserve("/", 0), database, off)
    assert other.reasons() == (True, [])


async def test_a_full_disk_and_a_full_house(
    service: Service, health: Health, keeper: Any, database: Database, settings: Settings
) -> None:
    for _ in range(settings.max_sandboxes):
        await service.sandboxes.create("ann", SPEC)
    assert told(health) == (True, "degraded", ["too_many_sandboxes"])
    other = Health(service.registry, keeper, Reserve("/", 1 << 40), database, settings)
    assert other.reasons() == (False, ["disk_reserve_reached", "too_many_sandboxes"])
