from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import trio

from nsbox.host.storage import Reserve, Rooms
from nsbox.model.usage import Moment
from nsbox.service import clock
from nsbox.service import sandboxes as module
from nsbox.service.commands import Commands
from nsbox.service.creations import Creations
from nsbox.service.plans import Plans
from nsbox.service.registry import Registry
from nsbox.service.sandboxes import Sandboxes
from nsbox.service.standby import Standbys
from nsbox.service.templates import Templates
from nsbox.settings import Settings, StorageMode
from nsbox.store.database import Database
from nsbox.store.ledger import Ledger
from nsbox.store.sandboxes import SandboxStore
from tests.unit.service.fakes import TEMPLATE, FakeBox, FakeKeeper


class Service:
    """The services of one daemon on a real record, with nothing below."""

    def __init__(self, database: Database, nursery: trio.Nursery, settings: Settings) -> None:
        self.now: Callable[[], Moment] = clock.moment
        self.store = SandboxStore(database, lambda: self.now())
        self.ledger = Ledger(database, settings.state_dir)
        self.nursery = nursery
        self.settings = settings
        self.keeper = FakeKeeper()
        self.templates = Templates()
        self.templates.add(TEMPLATE)
        self.start()

    def start(self) -> None:
        """A daemon starts, with no memory of an earlier one but the record."""
        self.registry = Registry(self.store)
        self.commands = Commands(self.registry, self.templates, self.settings, self.nursery)
        self.plan_names: dict[str, str] = {}
        self.plans = Plans(
            self.settings,
            self.registry,
            self.ledger,
            lambda owner: self.plan_names.get(owner, ""),
            lambda: self.now(),
        )
        self.sandboxes = Sandboxes(
            self.registry,
            self.keeper,  # type: ignore[arg-type]
            self.templates,
            self.settings,
            -1,
            self.nursery,
            self.commands.adopt,
            Rooms("/nowhere", StorageMode.WATCHED),
            Reserve("/", 0),
            self.plans,
        )
        self.visitors: set[str] = set()
        self.standbys = Standbys(
            self.registry,
            self.sandboxes.pauses,
            self.nursery,
            self.commands.busy,
            self.visitors.__contains__,
        )
        self.creations = Creations(self.sandboxes, self.commands, self.registry, self.nursery)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(str(tmp_path))
    yield database
    database.close()


@pytest.fixture
def fake_boxes(monkeypatch: pytest.MonkeyPatch) -> type[FakeBox]:
    FakeBox.made, FakeBox.refuses, FakeBox.attach_fails, FakeBox.adopted = {}, False, False, []
    monkeypatch.setattr(module, "Box", FakeBox)
    return FakeBox


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        max_sandboxes=4, max_commands=3, output_limit_bytes=1000, keep_ended=2, state_dir=str(tmp_path)
    )


@pytest.fixture
async def service(
    database: Database, fake_boxes: type[FakeBox], settings: Settings, nursery: trio.Nursery
) -> AsyncIterator[Service]:
    """``nursery`` is pytest-trio's: what crashes in the daemon's nursery fails the test."""
    service = Service(database, nursery, settings)
    yield service
    service.ledger.close()
