"""The record of this host, opened for a command that works on it directly: ``keys`` and ``users``. The daemon
need not run, and one that does heeds a change from its next request on."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import wraps
from typing import Concatenate, ParamSpec

import click

from nsbox.model.errors import HostProblem
from nsbox.settings import SYSTEM_STATE_DIR, load
from nsbox.store.keys import AmbiguousKeyError, KeyNotFoundError, KeyTable
from nsbox.store.users import NameTakenError, UserNotFoundError

P = ParamSpec("P")


def with_table(command: Callable[Concatenate[KeyTable, P], None]) -> Callable[P, None]:
    """Give the command the open table, and turn what can go wrong into a sentence on stderr."""

    @click.option("--state-dir", help="Where the daemon keeps its state.", metavar="DIR")
    @wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        state_dir = kwargs.pop("state_dir")
        with _as_advice(), KeyTable(_state_dir(state_dir if isinstance(state_dir, str) else None)) as table:
            command(table, *args, **kwargs)

    return wrapper


def print_table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Columns as wide as what is in them."""
    everything = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*everything, strict=True)]
    for row in everything:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        click.echo("  ".join(cells).rstrip())


def shown_time(at: float | None) -> str:
    """A time for people, or a dash."""
    return "-" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


@contextmanager
def _as_advice() -> Iterator[None]:
    try:
        yield
    except HostProblem as problem:
        raise click.ClickException(str(problem)) from problem
    except KeyNotFoundError as error:
        raise click.ClickException(f"no key has the id {error}; `nsbox keys list` shows them") from error
    except AmbiguousKeyError as error:
        raise click.ClickException(f"several keys begin with {error}; give the id") from error
    except UserNotFoundError as error:
        raise click.ClickException(
            f"no user is called {error}; `nsbox users list` shows them, `nsbox users create NAME` makes one"
        ) from error
    except NameTakenError as error:
        raise click.ClickException(f"there is a user called {error} already") from error


def _state_dir(option: str | None) -> str:
    """The folder whose keys are meant, seen to be ours.

    Without a choice of the caller's, an installed service comes before the caller's own state: root
    and the service user mean the service.
    """
    settings = load(os.environ, {"state_dir": option})
    chosen = settings.state_dir
    if option is None and not os.environ.get("NSBOX_STATE_DIR") and _is_of_service():
        chosen = SYSTEM_STATE_DIR
    _check_owner(chosen)
    return chosen


def _is_of_service() -> bool:
    owner = _owner(SYSTEM_STATE_DIR)
    return owner is not None and os.geteuid() in (0, owner)


def _owner(path: str) -> int | None:
    try:
        return os.stat(path).st_uid
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HostProblem(f"{path} cannot be reached: {error.strerror}") from error


def _check_owner(path: str) -> None:
    """Root could open another user's folder, but would leave files there that the daemon may not read."""
    owner = _owner(path)
    if owner is None or owner == os.geteuid():
        return
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        name = f"#{owner}"
    raise HostProblem(
        f"the state folder {path} belongs to the user {name}",
        remedy=f"sudo -u {name} nsbox … --state-dir {path}",
    )
