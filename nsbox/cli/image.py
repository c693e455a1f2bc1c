"""``nsbox image``: what is here, pull, push, import, build, remove, prune.

Everything goes through a daemon's API: that which ``NSBOX_URL`` and ``NSBOX_API_KEY`` name, else that which
runs on the state folder, else one that is started on that folder for this command (docs/adr/0033).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import click

from nsbox.cli import download, following
from nsbox.cli.client import Answer
from nsbox.cli.local import client_of_this_host
from nsbox.cli.output import count, fail, size
from nsbox.model.errors import HostProblem

_PATIENCE = 24 * 3600.0


@click.group()
def image() -> None:
    """Pull, push, import, build, list and remove images."""


@image.command()
@click.argument("name", metavar="IMAGE")
@following.progress
def pull(name: str, progress: bool | None) -> None:
    """Pull IMAGE from its registry, also when it is here: a tag may have moved."""
    try:
        with client_of_this_host(os.environ) as client:
            data = following.followed(client, "/images", {"image": name}, "image", following.shown(progress))
            click.echo(f"{data['image']}@{data['digest']}")
    except HostProblem as problem:
        fail(problem)


@image.command()
@click.argument("name", metavar="IMAGE")
@click.argument("to", metavar="[TARGET]", required=False)
@following.progress
def push(name: str, to: str | None, progress: bool | None) -> None:
    """Push IMAGE to a registry: to TARGET (registry/name:tag), or to where its own name says.

    A snapshot is pushed by nsbox snapshot push.
    """
    following.push("/images/push", {"image": name, **({"to": to} if to else {})}, progress)


@image.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
def build(file: str) -> None:
    """Build the template in FILE (images/x.toml): pull its image, run its set-up commands, keep all."""
    from nsbox.oci import templatefile

    try:
        template = templatefile.read(file)
        wish = {
            "name": template.name,
            "image": template.image,
            "description": template.description,
            "env": template.env,
            "workdir": template.workdir,
            "user": template.user,
            "shell": list(template.shell) if template.shell is not None else None,
            "start": list(template.start),
            "startImage": template.start_image,
            "setup": list(template.setup),
            "setupTimeoutS": template.setup_timeout_s,
        }
        with client_of_this_host(os.environ) as client:
            data = following.followed(client, "/templates", wish, "template", True)
            click.echo(data["id"])
    except HostProblem as problem:
        fail(problem)


@image.command("import")
@click.argument("path", type=click.Path(exists=True, allow_dash=True))
@click.option("--name", default="", metavar="IMAGE", help="What it shall be called; else as it says itself.")
def import_(path: str, name: str) -> None:
    """Import PATH: an OCI layout (a folder or a tar) or what `docker save` wrote; - is standard input.

    An archive may be packed by gzip or zstd.
    """
    from nsbox.cli import archive

    try:
        with client_of_this_host(os.environ) as client:
            query = {"name": name} if name else None
            length, body = archive.outgoing(path)
            answer = client.upload("/images/import", body, length, query=query, patience_s=_PATIENCE)
            if not answer.ok:
                raise _problem(answer)
            click.echo(f"{answer.body['image']}@{answer.body['digest']}")
    except HostProblem as problem:
        fail(problem)


@image.command("list")
@click.option("--json", "as_json", is_flag=True, help="As the API gives it.")
def list_images(as_json: bool) -> None:
    """List the images that are here, and what they take."""
    found = _asked("GET", "/images")
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    head = ("IMAGE", "DIGEST", "SIZE", "LAYERS", "PULLED")
    rows = [head, *(_row(one) for one in found["images"])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    disk = found["disk"]
    there = f"{count(disk['images'], 'image')}, {count(disk['layers'], 'layer')}"
    spare = size(disk["reclaimableBytes"] + disk["downloadBytes"])
    click.echo(f"{there}, {size(disk['bytes'])} on disk; {spare} can be pruned", err=True)


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    digest = one["digest"].removeprefix("sha256:")[:12]
    return one["image"], digest, size(one["sizeBytes"]), str(len(one["layers"])), one["pulledAt"][:19]


@image.command()
@click.argument("name", metavar="IMAGE")
def inspect(name: str) -> None:
    """Show all that is known of IMAGE, as JSON."""
    click.echo(json.dumps(_asked("GET", f"/images/{name}"), indent=2))


@image.command()
@click.argument("name", metavar="IMAGE")
@download.options
def export(name: str, output: str, form: str) -> None:
    """Write IMAGE as an archive: an OCI layout, or with --format tar the files that are in it."""
    try:
        download.download("/images/export", {"image": name, "format": form}, output)
    except HostProblem as problem:
        fail(problem)


@image.command()
@click.argument("names", metavar="IMAGE...", nargs=-1, required=True)
def remove(names: Sequence[str]) -> None:
    """Remove images. Sandboxes that live keep what they stand on."""
    for name in names:
        click.echo(_asked("DELETE", f"/images/{name}")["image"])


@image.command()
@click.option("--all", "everything", is_flag=True, help="Images that no sandbox stands on, too.")
def prune(everything: bool) -> None:
    """Remove layers that nobody needs, and what is left of broken downloads."""
    done = _asked("POST", "/images/prune", {"all": everything})
    for name in done["images"]:
        click.echo(name)
    click.echo(f"{count(done['layers'], 'layer')} removed, {size(done['freedBytes'])} given back", err=True)


def _asked(method: str, path: str, body: Any = None) -> Any:
    try:
        with client_of_this_host(os.environ) as client:
            answer = client.request(method, path, body, patience_s=600)
            if not answer.ok:
                raise _problem(answer)
            return answer.body
    except HostProblem as problem:
        fail(problem)


def _problem(answer: Answer) -> HostProblem:
    document = answer.body if isinstance(answer.body, dict) else {}
    detail, remedy = document.get("detail"), document.get("remedy")
    if not isinstance(detail, str):
        return HostProblem(answer.explain())
    if document.get("code") == "image_not_found":
        remedy = "list them with nsbox image list"  # the API speaks of its routes
    return HostProblem(detail, remedy=remedy if isinstance(remedy, str) else None)
