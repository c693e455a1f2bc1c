"""Fixtures for tests that talk to a real daemon over HTTP: ``tests/e2e`` and ``tests/security``."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Protocol

import pytest
from hypothesis import settings

from tests.acceptance.plugin import figure, pytest_runtest_makereport, pytest_terminal_summary
from tests.e2e.client import Api, Sandbox
from tests.e2e.daemon import Daemon

__all__ = ["figure", "pytest_runtest_makereport", "pytest_terminal_summary"]

# No database of examples: the checkout may not be writable, and a run must not depend on the one before.
# No deadline for an example: on a busy host that would measure the host.
settings.register_profile("nsbox", database=None, deadline=None)
settings.load_profile("nsbox")


class DaemonFactory(Protocol):
    """Starts daemons that end with the test. Settings are environment variables without ``NSBOX_``."""

    def __call__(
        self,
        *,
        key: str | None = ...,
        state_dir: str | None = ...,
        start: bool = ...,
        settings: dict[str, str] | None = ...,
    ) -> Daemon: ...


def new_key() -> str:
    return "test-" + secrets.token_urlsafe(24)


@pytest.fixture(scope="session")
def daemon() -> Iterator[Daemon]:
    """The daemon that all tests share which do not break it. They show more wrong keys than anybody."""
    shared = Daemon(key=new_key(), settings={"NSBOX_AUTH_FAILURES": "10000"})
    try:
        yield shared.start()
    finally:
        shared.close()


@pytest.fixture(scope="module", autouse=True)
def no_zombies_are_left() -> Iterator[None]:
    """After the scenarios of each file, in every daemon that still runs."""
    yield
    for one in list(Daemon.running):
        one.check_zombies()


@pytest.fixture
def api(daemon: Daemon) -> Iterator[Api]:
    """A client with a key that is in force."""
    with daemon.api() as client:
        yield client


@pytest.fixture
def sandbox(api: Api) -> Iterator[Sandbox]:
    """A sandbox for one test."""
    made = api.sandbox()
    yield made
    api.close()  # a test may have left half a request behind
    assert api.kill(made.id).status == 200


@pytest.fixture
def make_sandbox(api: Api) -> Iterator[Callable[..., Sandbox]]:
    """Sandboxes for one test, several or with a wish."""
    made: list[Sandbox] = []

    def make(**wish: object) -> Sandbox:
        made.append(api.sandbox(**wish))
        return made[-1]

    yield make
    for one in made:
        assert api.kill(one.id).status == 200


def _factory(made: list[Daemon]) -> DaemonFactory:
    def make(
        *,
        key: str | None = "",
        state_dir: str | None = None,
        start: bool = True,
        settings: dict[str, str] | None = None,
    ) -> Daemon:
        prefixed = {f"NSBOX_{name.upper()}": value for name, value in (settings or {}).items()}
        one = Daemon(key=new_key() if key == "" else key, settings=prefixed, state_dir=state_dir)
        made.append(one)
        return one.start() if start else one

    return make


@pytest.fixture
def daemon_factory() -> Iterator[DaemonFactory]:
    """Daemons of a test's own."""
    made: list[Daemon] = []
    try:
        yield _factory(made)
        for one in made:
            one.check_zombies()
    finally:
        for one in reversed(made):
            one.close()


@pytest.fixture(scope="module")
def own_daemon() -> Iterator[Daemon]:
    """A daemon for the tests of one file, which disturb it but leave it fit for the next."""
    one = Daemon(key=new_key())
    try:
        yield one.start()
    finally:
        one.close()
