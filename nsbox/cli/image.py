"""``nsbox image``: what is here, pull, import, build, remove, prune.

Everything goes through a daemon's API: that which ``NSBOX_URL`` and ``NSBOX_API_KEY`` name, else that which
runs on the state folder, else one that is started on that folder for this command (docs/adr/0033).
"""

from __future__ import annotations

import json
import os
import stat
import sys
import tarfile
import threading
from collections.abc import Iterator, Sequence
from typing import IO, Any

import click

from nsbox.cli.client import Client
from nsbox.cli.local import client_of_this_host
from nsbox.cli.output import report
from nsbox.model.errors import HostProblem

_PATIENCE = 24 * 3600.0
_CHUNK = 1 << 20


@click.group()
def image() -> None:
    """Pull, import, build, list and remove images."""


def _fail(problem: HostProblem) -> None:
    report(problem)
    sys.exit(1)


@image.command()
@click.argument("name", metavar="IMAGE")
@click.option("--progress/--no-progress", default=None, help="Tell how far it is.  [default: on a terminal]")
def pull(name: str, progress: bool | None) -> None:
    """Pull IMAGE from its registry, also when it is here: a tag may have moved."""
    shown = sys.stderr.isatty() if progress is None else progress
    try:
        with client_of_this_host(os.environ) as client:
            event, data = _followed(client, "/images", {"image": name}, _Lines(shown))
            _told(event, data, "image")
            click.echo(f"{data['image']}@{data['digest']}")
    except HostProblem as problem:
        _fail(problem)


@image.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
def build(file: str) -> None:
    """Build the template in FILE (images/x.toml): pull its image, run its set-up commands, keep all."""
    from nsbox.oci import templatefile

    try:
        with open(file, "rb") as source:
            template = templatefile.decode(source.read())
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
            event, data = _followed(client, "/templates", wish, _Lines(True))
            _told(event, data, "template")
            click.echo(data["id"])
    except HostProblem as problem:
        _fail(problem)


@image.command("import")
@click.argument("path", type=click.Path(exists=True, allow_dash=True))
@click.option("--name", default="", metavar="IMAGE", help="What it shall be called; else as it says itself.")
def import_(path: str, name: str) -> None:
    """Import PATH: an OCI layout (a folder or a tar) or what `docker save` wrote; - is standard input."""
    try:
        with client_of_this_host(os.environ) as client:
            query = {"name": name} if name else None
            size, body = _archive(path)
            answer = client.upload("/images/import", body, size, query=query, patience_s=_PATIENCE)
            if not answer.ok:
                raise HostProblem(f"not imported: {answer.explain()}")
            click.echo(f"{answer.body['image']}@{answer.body['digest']}")
    except HostProblem as problem:
        _fail(problem)


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
    click.echo(
        f"{disk['images']} images, {disk['layers']} layers, {_size(disk['bytes'])} on disk;"
        f" {_size(disk['reclaimableBytes'] + disk['downloadBytes'])} can be pruned",
        err=True,
    )


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    digest = one["digest"].removeprefix("sha256:")[:12]
    return one["image"], digest, _size(one["sizeBytes"]), str(len(one["layers"])), one["pulledAt"][:19]


def _size(count: int) -> str:
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


@image.command()
@click.argument("name", metavar="IMAGE")
def inspect(name: str) -> None:
    """Show all that is known of IMAGE, as JSON."""
    click.echo(json.dumps(_asked("GET", f"/images/{name}"), indent=2))


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
    click.echo(f"{done['layers']} layers removed, {_size(done['freedBytes'])} given back", err=True)


def _asked(method: str, path: str, body: Any = None) -> Any:
    try:
        with client_of_this_host(os.environ) as client:
            answer = client.request(method, path, body, patience_s=600)
            if not answer.ok:
                raise HostProblem(answer.explain())
            return answer.body
    except HostProblem as problem:
        _fail(problem)


def _followed(client: Client, path: str, wish: Any, lines: _Lines) -> tuple[str, Any]:
    """The last event, which is the result or the problem."""
    last: tuple[str, Any] = "", None
    for event, data in client.events(path, wish, patience_s=_PATIENCE):
        if event == "progress":
            lines.show(data)
        last = event, data
    lines.end()
    return last


def _told(event: str, data: Any, wanted: str) -> None:
    if event == wanted:
        return
    if event == "problem" and isinstance(data, dict):
        said = [data.get(member) for member in ("detail", "stderr")]
        raise HostProblem("; ".join(text for text in said if text), remedy=data.get("remedy"))
    raise HostProblem("the daemon ended before it was done", remedy="see its log")


class _Lines:
    """Progress, on standard error: a line for each step; on a terminal the amount in place."""

    def __init__(self, shown: bool) -> None:
        self._shown, self._inline = shown, sys.stderr.isatty()
        self._open = False

    def show(self, news: dict[str, Any]) -> None:
        if not self._shown:
            return
        if "step" in news:
            self._line(news["step"])
        elif "layer" in news:
            text = f"{news['layer'].removeprefix('sha256:')[:12]}  {news['stage']}"
            if news["stage"] == "downloading":
                text += f"  {_size(news['current'])} of {_size(news['total'])}"
                if self._inline:
                    click.echo(f"\r\x1b[K{text}", nl=False, err=True)
                    self._open = True
                    return
            self._line(text)
        else:
            self._line(news["stage"])

    def _line(self, text: str) -> None:
        self.end()
        click.echo(text, err=True)

    def end(self) -> None:
        if self._open:
            click.echo("\r\x1b[K", nl=False, err=True)
            self._open = False


def _archive(path: str) -> tuple[int | None, Iterator[bytes]]:
    """The bytes to send, and how many where that is known: a folder becomes a tar on the way."""
    if path == "-":
        return None, _read(path)
    if stat.S_ISDIR(os.stat(path).st_mode):
        return None, _packed(path)
    return os.stat(path).st_size, _read(path)


def _read(path: str) -> Iterator[bytes]:
    with open(path, "rb") if path != "-" else open(0, "rb", closefd=False) as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _packed(folder: str) -> Iterator[bytes]:
    """The layout's own files and blobs, not what else may lie there."""
    reader, writer = os.pipe()
    failures: list[OSError] = []

    def pack(target: IO[bytes]) -> None:
        try:
            with target, tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as archive:
                for name in ("oci-layout", "index.json", "blobs"):
                    archive.add(os.path.join(folder, name), name)
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=pack, args=(os.fdopen(writer, "wb"),), daemon=True)
    thread.start()
    with os.fdopen(reader, "rb") as source:
        while chunk := source.read(_CHUNK):
            yield chunk
    thread.join()
    if failures:
        # The daemon has been sent half an archive, and must not take it for a whole one.
        raise HostProblem(f"{folder} is no OCI layout that can be read: {failures[0]}")
