"""What the commands share that speak to a daemon: which one, what goes wrong, tables, JSON, completion."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import click

from nsbox.client import ApiError, Client, NsboxError, Retries
from nsbox.model.errors import HostProblem

F = TypeVar("F", bound=Callable[..., Any])
#: Whoever has pressed Tab waits no longer, in seconds.
_COMPLETION_S = 2.0
#: The API speaks of its routes.
_REMEDIES = {
    "sandbox_not_found": "nsbox ps --all",
    "process_not_found": "nsbox logs --list SANDBOX",
    "file_not_found": "nsbox exec SANDBOX -- ls -l FOLDER",
    "wrong_state": "nsbox resume SANDBOX, if it is paused",
    "route_not_found": "update the daemon: this command is newer",
    "invalid_key": "nsbox keys create NAME, and nsbox context add",
}

json_option = click.option("--json", "as_json", is_flag=True, help="As the API gives it.")


def _complete_contexts(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from nsbox.cli import contexts

    with contextlib.suppress(HostProblem):
        known = contexts.load(contexts.file_of(os.environ)).contexts
        return sorted(name for name in known if name.startswith(incomplete))
    return []


contexts_known = _complete_contexts
context_option = click.option(
    "--context", metavar="NAME", shell_complete=_complete_contexts, help="Which daemon (nsbox context)."
)


def options(command: F) -> F:
    """``--context`` and ``--json``."""
    return context_option(json_option(command))


def sandbox_ids(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    """Completion of sandboxes, with what they are made from. Nothing, without an error, from a daemon that
    is away."""
    from click.shell_completion import CompletionItem

    with contextlib.suppress(HostProblem, NsboxError), _asked(ctx) as nsbox:
        return [
            CompletionItem(one.id, help=f"{one.info.template_id} {one.info.status}")
            for one in nsbox.list()
            if one.id.startswith(incomplete)
        ]
    return []


def _asked(ctx: click.Context) -> contextlib.AbstractContextManager[Client]:
    """Somebody has pressed Tab, and waits."""
    return connected(ctx.params.get("context"), 0.0, _COMPLETION_S)


def sandbox_argument(command: F) -> F:
    """``SANDBOX``, completed."""
    return click.argument("sandbox", shell_complete=sandbox_ids)(command)


def sandboxes_argument(command: F) -> F:
    """``SANDBOX...``, completed."""
    return click.argument(
        "sandboxes", metavar="SANDBOX...", nargs=-1, required=True, shell_complete=sandbox_ids
    )(command)


@contextlib.contextmanager
def connected(context: str | None, patience: float = 30.0, connect_timeout: float = 10.0) -> Iterator[Client]:
    """A client of the daemon that is meant. What goes wrong becomes a ``HostProblem``, in its words."""
    from nsbox.cli import contexts

    chosen = contexts.chosen(os.environ, context)
    # A daemon that was never reached is not waited for: most likely nobody is there.
    retries = Retries(patience=patience, reach=min(patience, 1.0))
    with (
        told(),
        Client(chosen.url, chosen.key, retries=retries, connect_timeout=connect_timeout) as nsbox,
    ):
        yield nsbox


@contextlib.contextmanager
def told() -> Iterator[None]:
    """The client's errors as advice."""
    try:
        yield
    except ApiError as error:
        remedy = _REMEDIES.get(error.code or "", error.remedy)
        raise HostProblem(f"{error.detail} (HTTP {error.status})", remedy=remedy) from error
    except (NsboxError, ValueError) as error:
        raise HostProblem(str(error)) from error


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as they need."""
    whole = [tuple(head), *(tuple(map(clean, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)]
    for row in whole:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        click.echo("  ".join(cells).rstrip())


def clean(text: str) -> str:
    """What a sandbox named must not steer the terminal."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


def echo_json(data: bytes) -> None:
    """A document, for people and programs."""
    import msgspec

    click.echo(msgspec.json.format(data, indent=2).decode())
