"""``nsbox pause``, ``resume`` and ``kill``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

from nsbox.cli import remote
from nsbox.client.call import Call
from nsbox.client.routes import sandboxes as routes
from nsbox.client.types import Status


@click.command()
@remote.sandboxes_argument
@remote.options
def pause(sandboxes: Sequence[str], context: str | None, as_json: bool) -> None:
    """Let sandboxes stand still, with their memory and files, and their time."""
    _each(routes.pause, sandboxes, context, as_json)


@click.command()
@remote.sandboxes_argument
@remote.options
def resume(sandboxes: Sequence[str], context: str | None, as_json: bool) -> None:
    """Let sandboxes go on."""
    _each(routes.resume, sandboxes, context, as_json)


@click.command()
@remote.sandboxes_argument
@remote.options
def kill(sandboxes: Sequence[str], context: str | None, as_json: bool) -> None:
    """End sandboxes; comes back when none of their processes is left."""
    _each(routes.kill, sandboxes, context, as_json)


def _each(
    act: Callable[[str], Call[Status]], sandboxes: Sequence[str], context: str | None, as_json: bool
) -> None:
    answers = []
    with remote.connected(context) as nsbox:
        for sandbox in sandboxes:
            call = act(routes.at(sandbox))
            answers.append(nsbox.raw(call))
            if not as_json:
                click.echo(call.parse(answers[-1]).id)
    if as_json:
        remote.echo_json(b"[" + b",".join(answers) + b"]")
