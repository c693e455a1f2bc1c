"""``nsbox snapshot``: take, list, export, push, remove. By the API, as ``nsbox image`` does it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import click

from nsbox.cli import download, following
from nsbox.cli.local import client_of_this_host
from nsbox.cli.output import fail
from nsbox.model.errors import HostProblem

_PATIENCE = 600.0


@click.group()
def snapshot() -> None:
    """Take, list, export, push and remove snapshots of sandboxes."""


@snapshot.command()
@click.argument("sandbox", metavar="SANDBOX")
@click.option("--name", default="", help="For people to find it by.")
@click.option("--consistent", is_flag=True, help="Fail rather than copy while processes run.")
def create(sandbox: str, name: str, consistent: bool) -> None:
    """Keep what SANDBOX has written; prints the snapshot's id."""
    wish = {"name": name, "consistent": consistent}
    made = _asked("POST", f"/sandboxes/{sandbox}/snapshots", wish)
    click.echo(made["id"])
    if made["processes"] == "running":
        click.echo("nsbox: its processes ran on meanwhile: this host delegates no cgroup", err=True)


@snapshot.command("list")
@click.option("--json", "as_json", is_flag=True, help="As the API gives it.")
def list_snapshots(as_json: bool) -> None:
    """List your snapshots."""
    found = _asked("GET", "/snapshots")
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    head = ("SNAPSHOT", "NAME", "FROM", "BYTES", "CREATED")
    rows = [head, *(_row(one) for one in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    source = one["image"] or one["templateId"]
    return one["id"], one["name"], source, str(one["sizeBytes"]), one["createdAt"][:19]


@snapshot.command()
@click.argument("name", metavar="SNAPSHOT")
@download.options
def export(name: str, output: str, form: str) -> None:
    """Write SNAPSHOT as an archive: an OCI layout, or with --format tar the files that a sandbox sees."""
    try:
        download.download(f"/snapshots/{name}/export", {"format": form}, output)
    except HostProblem as problem:
        fail(problem)


@snapshot.command()
@click.argument("name", metavar="SNAPSHOT")
@click.argument("to", metavar="TARGET")
@following.progress
def push(name: str, to: str, progress: bool | None) -> None:
    """Push SNAPSHOT to a registry as the image TARGET (registry/name:tag)."""
    following.push(f"/snapshots/{name}/push", {"to": to}, progress)


@snapshot.command()
@click.argument("names", metavar="SNAPSHOT...", nargs=-1, required=True)
def remove(names: Sequence[str]) -> None:
    """Remove snapshots. Sandboxes that stand on them go on."""
    for name in names:
        click.echo(_asked("DELETE", f"/snapshots/{name}")["id"])


def _asked(method: str, path: str, body: Any = None) -> Any:
    try:
        with client_of_this_host(os.environ) as client:
            answer = client.request(method, path, body, patience_s=_PATIENCE)
            if not answer.ok:
                raise HostProblem(answer.explain())
            return answer.body
    except HostProblem as problem:
        fail(problem)
