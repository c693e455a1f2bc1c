"""``nsbox context``: names for daemons and their keys."""

from __future__ import annotations

import os
import sys
from typing import TextIO

import click
import msgspec

from nsbox.cli import contexts, remote
from nsbox.client import Client, NotAuthenticated, NsboxError, Retries
from nsbox.model.errors import HostProblem


@click.group()
def context() -> None:
    """Keep URLs and keys of daemons under names."""


@context.command()
@click.argument("name")
@click.argument("url")
@click.option(
    "--key-file",
    type=click.File("r"),
    metavar="FILE",
    help="Where the key is; - is standard input.  [default: NSBOX_API_KEY, or it is asked for]",
)
@click.option(
    "--check/--no-check", default=True, show_default=True, help="Ask the daemon whether it knows it."
)
def add(name: str, url: str, key_file: TextIO | None, check: bool) -> None:
    """Keep URL and a key as NAME, which becomes the current context if it is the first.

    A key is never an argument: every user of the host could read it in the list of processes.
    """
    made = contexts.checked(contexts.Context(url, _key(key_file)))
    if check:
        _check(made)
    path = contexts.file_of(os.environ)
    known = contexts.load(path)
    current = known.current if known.current in known.contexts else name
    contexts.save(path, contexts.Contexts(current, {**known.contexts, name: made}))
    click.echo(f"{name} is {'the current context' if current == name else 'kept'}", err=True)


def _key(file: TextIO | None) -> str:
    if file is not None:
        return file.read().strip()
    given = os.environ.get("NSBOX_API_KEY")
    if given:
        return given
    if sys.stdin.isatty():
        return str(click.prompt("Key", hide_input=True, err=True)).strip()
    return sys.stdin.readline().strip()


def _check(made: contexts.Context) -> None:
    try:
        with Client(made.url, made.key, retries=Retries(patience=0)) as nsbox:
            nsbox.list()
    except NotAuthenticated as error:
        raise HostProblem(f"{made.url} does not know this key", remedy="nsbox keys create NAME") from error
    except NsboxError as error:
        click.echo(f"nsbox: kept all the same: {error}", err=True)


@context.command()
@click.argument("name", shell_complete=remote.contexts_known)
def use(name: str) -> None:
    """Make NAME the current context."""
    path = contexts.file_of(os.environ)
    known = contexts.load(path)
    known.named(name)
    contexts.save(path, contexts.Contexts(name, known.contexts))


@context.command("list")
@remote.json_option
def list_contexts(as_json: bool) -> None:
    """List them, without their keys; * is the current one."""
    known = contexts.load(contexts.file_of(os.environ))
    if as_json:
        told = [
            {"name": name, "url": one.url, "current": name == known.current}
            for name, one in sorted(known.contexts.items())
        ]
        remote.echo_json(msgspec.json.encode(told))
        return
    rows = [
        ("*" if name == known.current else "", name, one.url) for name, one in sorted(known.contexts.items())
    ]
    remote.table(("", "NAME", "URL"), rows)


@context.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=remote.contexts_known)
def remove(names: tuple[str, ...]) -> None:
    """Forget contexts. Their keys stay valid: nsbox keys revoke."""
    path = contexts.file_of(os.environ)
    known = contexts.load(path)
    for name in names:
        known.named(name)
    left = {name: one for name, one in known.contexts.items() if name not in names}
    contexts.save(path, contexts.Contexts(known.current if known.current in left else None, left))
