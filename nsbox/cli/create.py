"""``nsbox create`` and ``nsbox fork``: new sandboxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from nsbox.cli import arguments, remote
from nsbox.client.routes import sandboxes

F = TypeVar("F", bound=Callable[..., Any])


def _limits(command: F) -> F:
    for option in reversed(
        (
            click.option("--vcpus", type=int, metavar="N", help="Processors."),
            click.option("--memory", "memory_mb", type=int, metavar="MIB", help="Memory."),
            click.option("--storage", "storage_mb", type=int, metavar="MIB", help="Disk."),
            click.option("--timeout", type=float, metavar="S", help="It ends after so many seconds."),
            click.option(
                "-e", "--env", "given", multiple=True, metavar="K=V", help="A variable; repeatable."
            ),
            click.option(
                "--network", "mode", type=click.Choice(["off", "public"]), help="What it may reach."
            ),
            click.option(
                "--allow", multiple=True, metavar="WHAT", help="Only this address, network or name."
            ),
        )
    ):
        command = option(command)
    return command


def _network(mode: str | None, allow: Sequence[str]) -> dict[str, Any] | None:
    if allow:
        return {"allow": list(allow)} | ({} if mode is None else {"mode": mode})
    return None if mode is None else {"mode": mode}


@click.command()
@click.option("--image", metavar="IMAGE", help="An image of any registry, or a template.")
@click.option("--snapshot", metavar="SNAPSHOT", help="Go on from a snapshot.")
@click.option(
    "--pull", type=click.Choice(["never", "missing", "always"]), help="Whether to ask the registry."
)
@_limits
@remote.options
def create(
    image: str | None,
    snapshot: str | None,
    pull: str | None,
    vcpus: int | None,
    memory_mb: int | None,
    storage_mb: int | None,
    timeout: float | None,
    given: Sequence[str],
    mode: str | None,
    allow: Sequence[str],
    context: str | None,
    as_json: bool,
) -> None:
    """Make a sandbox; prints its id."""
    call = sandboxes.create(
        "",
        image=image,
        snapshot=snapshot,
        pull=pull,
        vcpus=vcpus,
        memory_mb=memory_mb,
        storage_mb=storage_mb,
        timeout=timeout,
        env=arguments.variables(given) or None,
        network=_network(mode, allow),
    )
    with remote.connected(context) as nsbox:
        data = nsbox.raw(call)
    if as_json:
        remote.echo_json(data)
    else:
        click.echo(call.parse(data).id)


@click.command()
@remote.sandbox_argument
@click.option("-n", "--count", type=int, default=1, show_default=True, help="How many.")
@_limits
@remote.options
def fork(
    sandbox: str,
    count: int,
    vcpus: int | None,
    memory_mb: int | None,
    storage_mb: int | None,
    timeout: float | None,
    given: Sequence[str],
    mode: str | None,
    allow: Sequence[str],
    context: str | None,
    as_json: bool,
) -> None:
    """Make sandboxes with the files that SANDBOX has now; prints their ids."""
    with remote.told():
        call = sandboxes.fork(
            sandboxes.at(sandbox),
            count=count,
            vcpus=vcpus,
            memory_mb=memory_mb,
            storage_mb=storage_mb,
            timeout=timeout,
            env=arguments.variables(given) or None,
            network=_network(mode, allow),
        )
    with remote.connected(context) as nsbox:
        data = nsbox.raw(call)
    if as_json:
        remote.echo_json(data)
        return
    for one in call.parse(data).sandboxes:
        click.echo(one.id)
