"""What takes minutes: pulls, pushes and builds, followed on standard error."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from nsbox.cli.client import Client
from nsbox.cli.local import client_of_this_host
from nsbox.cli.output import count, fail, size
from nsbox.model.errors import HostProblem

_PATIENCE = 24 * 3600.0
#: How a layer ends.
_OVER = frozenset({"done", "present", "mounted"})

progress = click.option(
    "--progress/--no-progress", default=None, help="Tell how far it is.  [default: on a terminal]"
)


def shown(asked: bool | None) -> bool:
    """Whether to tell, when it was not said."""
    return sys.stderr.isatty() if asked is None else asked


def push(path: str, wish: dict[str, str], asked: bool | None) -> None:
    """Push, and print what the registry has then."""
    try:
        with client_of_this_host(os.environ) as client:
            data = followed(client, path, wish, "pushed", shown(asked))
            click.echo(f"{data['image']}@{data['digest']}")
    except HostProblem as problem:
        fail(problem)


def followed(client: Client, path: str, wish: Any, wanted: str, tell: bool) -> Any:
    """The data of the last event, which is to be ``wanted``. Raises ``HostProblem``."""
    lines = _Lines(tell)
    last: tuple[str, Any] = "", None
    for event, data in client.events(path, wish, patience_s=_PATIENCE):
        if event == "progress":
            lines.show(data)
        last = event, data
    lines.end()
    event, data = last
    if event == wanted:
        return data
    if event == "problem" and isinstance(data, dict):
        detail, errors = str(data.get("detail")), str(data.get("stderr") or "").strip()
        if errors not in detail:  # which quotes its end
            detail = f"{detail}\n{errors}"
        raise HostProblem(detail, remedy=data.get("remedy"))
    raise HostProblem("the daemon ended before it was done", remedy="see its log")


class _Lines:
    """Progress, on standard error: a line for each step of each layer; on a terminal also, in place, how much
    there is of all."""

    def __init__(self, shown: bool) -> None:
        self._shown, self._inline = shown, sys.stderr.isatty()
        self._open = False
        self._layers: dict[str, dict[str, Any]] = {}

    def show(self, news: dict[str, Any]) -> None:
        if not self._shown:
            return
        layer = news.get("layer")
        if not layer:
            self._line(news.get("step") or news["stage"])
            return
        before, self._layers[layer] = self._layers.get(layer), news
        if before is None or before["stage"] != news["stage"]:
            amount = f"  {size(news['total'])}" if news["stage"] in ("downloading", "uploading") else ""
            self._line(f"{layer.removeprefix('sha256:')[:12]}  {news['stage']}{amount}")
        if self._inline:
            self._sum()

    def _sum(self) -> None:
        layers = self._layers.values()
        have, whole = (sum(one[what] for one in layers) for what in ("current", "total"))
        done = sum(one["stage"] in _OVER for one in layers)
        text = f"{size(have)} of {size(whole)}, {done} of {count(len(layers), 'layer')} done"
        click.echo(f"\r\x1b[K{text}", nl=False, err=True)
        self._open = True

    def _line(self, text: str) -> None:
        self.end()
        click.echo(text, err=True)

    def end(self) -> None:
        if self._open:
            click.echo("\r\x1b[K", nl=False, err=True)
            self._open = False
