"""A daemon in the world of test hosts, for the tests of one file."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from nsbox.kernel import libc
from tests.e2e import outside
from tests.e2e.client import Api, Sandbox
from tests.e2e.daemon import descendants
from tests.e2e.hosts import World, WorldDaemon


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The hosts. Skips where they cannot be made."""
    outside.need_test_hosts()
    made = World(str(tmp_path_factory.mktemp("world")))
    try:
        with outside.usable_tun():
            made.make()
            yield made
    finally:
        made.remove()


class Inhabitant:
    """A daemon in the namespace ``host``, and the tests' own thread beside it: there its clients are."""

    def __init__(self, world: World, key: str, settings: dict[str, str] | None = None) -> None:
        self._world = world
        self.daemon = WorldDaemon(key=key, settings=settings)
        self.daemon.world = world

    def __enter__(self) -> Inhabitant:
        self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        there = self._world.enter(self._world.host)
        libc.setns(there, libc.CLONE_NEWNET)
        os.close(there)
        try:
            self.daemon.start()
            self.api = self.daemon.api()
            outside.wait_for_network(self.api)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "api"):
            self.api.close()
        self.daemon.close()
        libc.setns(self._home, libc.CLONE_NEWNET)
        os.close(self._home)

    def process(self, name: str) -> int:
        """The pid of one of the daemon's; 0 while there is none."""
        family = descendants(self.daemon.pid)
        return next((one.pid for one in family if one.name == name and one.state != "Z"), 0)

    def pasta(self) -> int:
        """Its pid; it names itself after the instructions that it was built for."""
        names = ("pasta", "pasta.avx2", "passt.avx2", "passt")
        return next(filter(None, (self.process(name) for name in names)))


__all__ = ["Api", "Inhabitant", "Sandbox", "world"]
