"""``nsbox logs``: what a process of a sandbox has written."""

from __future__ import annotations

import os

import click
import msgspec

from nsbox.cli import remote
from nsbox.client import Dropped, Output, ProcessInfo, Sandbox
from nsbox.client.blocking.processes import Process
from nsbox.model.errors import HostProblem


@click.command()
@remote.sandbox_argument
@click.argument("process", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on until it has ended.")
@click.option("--offset", type=click.IntRange(min=0), default=0, metavar="N", help="Begin at this byte.")
@click.option("-l", "--list", "listed", is_flag=True, help="Which processes there are.")
@remote.options
def logs(
    sandbox: str,
    process: str | None,
    follow: bool,
    offset: int,
    listed: bool,
    context: str | None,
    as_json: bool,
) -> None:
    """Show what PROCESS of SANDBOX has written; without PROCESS, the one that was started last."""
    with remote.connected(context, 60.0) as nsbox:
        box = nsbox.sandbox(sandbox)
        if listed:
            _list(box, as_json)
            return
        one = box.processes.get(process) if process else _last(box)
        if as_json:
            remote.echo_json(msgspec.json.encode(one.logs(offset=offset)))
        elif follow:
            _follow(one, offset)
        else:
            _show(one, offset)


def _last(box: Sandbox) -> Process:
    found = box.processes.list(all=True)
    if not found:
        raise HostProblem(
            "the sandbox has no processes", remedy="start one with: nsbox exec SANDBOX -- COMMAND"
        )
    return max(found, key=lambda one: one.info.started_at)


def _list(box: Sandbox, as_json: bool) -> None:
    found = [one.info for one in box.processes.list(all=True)]
    if as_json:
        remote.echo_json(msgspec.json.encode(found))
        return
    rows = [
        (
            one.id,
            one.kind,
            one.status,
            _end(one),
            _words(one.command),
        )
        for one in found
    ]
    remote.table(("PROCESS", "KIND", "STATUS", "EXIT", "COMMAND"), rows)


def _end(one: ProcessInfo) -> str:
    return str(one.exit_code) if one.exit_code is not None else one.signal or "-"


def _words(command: str | tuple[str, ...] | list[str]) -> str:
    text = command if isinstance(command, str) else " ".join(command)
    return text if len(text) <= 60 else text[:59] + "…"


def _follow(one: Process, offset: int) -> None:
    with one.follow(offset) as stream:
        for event in stream:
            if isinstance(event, Output):
                _write(event.stream, event.data)
            elif isinstance(event, Dropped):
                click.echo(f"nsbox: {event.until - event.offset} bytes are kept no longer", err=True)


def _show(one: Process, offset: int) -> None:
    end = max(one.info.log_end, offset)
    while True:
        page = one.logs(offset=offset)
        if page.dropped:
            click.echo(f"nsbox: {page.dropped} bytes are kept no longer", err=True)
        for chunk in page.chunks:
            _write(chunk.stream, chunk.bytes_of(page.encoding))
        if page.next_offset >= end or page.next_offset == offset:
            return
        offset = page.next_offset


def _write(stream: str, data: bytes) -> None:
    descriptor, view = 1 if stream == "stdout" else 2, memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
