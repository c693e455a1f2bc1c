"""A client of the daemon of this host, for commands that work on its state."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping

from nsbox.cli import contexts
from nsbox.cli.client import Client
from nsbox.cli.private import private_daemon
from nsbox.model.errors import HostProblem
from nsbox.settings import ADDRESS_FILE, Settings, load
from nsbox.store.keys import KeyTable


@contextlib.contextmanager
def client_of_this_host(environment: Mapping[str, str]) -> Iterator[Client]:
    """Of the daemon that ``NSBOX_URL`` and ``NSBOX_API_KEY`` or a context name, else of that on the state
    folder, else of one that is started on that folder and ends with the block. Raises ``HostProblem``."""
    named = contexts.named(environment)
    if named is not None:
        with Client(named.url, named.key) as client:
            yield client
        return
    settings = load(environment)
    if _is_served(settings.state_dir):
        with _running(settings) as client:
            yield client
        return
    with (
        private_daemon(environment, settings.state_dir) as daemon,
        _key_for(settings) as made,
        Client(daemon.url, made) as client,
    ):
        yield client


def _is_served(state_dir: str) -> bool:
    """Whether a daemon holds the folder's lock."""
    try:
        descriptor = os.open(os.path.join(state_dir, "lock"), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise HostProblem(
            f"the state folder {state_dir} is not ours: {error.strerror}",
            remedy="set NSBOX_URL and NSBOX_API_KEY, or be the user it belongs to",
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextlib.contextmanager
def _running(settings: Settings) -> Iterator[Client]:
    try:
        with open(os.path.join(settings.state_dir, ADDRESS_FILE), encoding="ascii") as file:
            url = file.read().strip()
    except OSError as error:
        raise HostProblem(
            f"a daemon uses {settings.state_dir} and does not say where it listens",
            remedy="wait until it is ready, or set NSBOX_URL and NSBOX_API_KEY",
        ) from error
    with _key_for(settings) as key, Client(url, key) as client:
        yield client


@contextlib.contextmanager
def _key_for(settings: Settings) -> Iterator[str]:
    """A key for as long as the command runs. Whoever owns the state folder may make keys: no right is new.

    Nothing of it is left: a list of keys is for reading, and the first start of `nsbox serve` makes a key
    only where there is none.
    """
    with KeyTable(settings.state_dir) as table:
        _, key = table.create("nsbox image")
        try:
            yield key
        finally:
            table.forget(key)
