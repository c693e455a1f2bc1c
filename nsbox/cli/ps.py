"""``nsbox ps``: the sandboxes there are."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from nsbox.cli import remote
from nsbox.client.routes import sandboxes
from nsbox.client.types import SandboxInfo


@click.command()
@click.option("-a", "--all", "everything", is_flag=True, help="Those that have ended, too.")
@click.option("-q", "--quiet", is_flag=True, help="Ids only.")
@remote.options
def ps(everything: bool, quiet: bool, context: str | None, as_json: bool) -> None:
    """List your sandboxes."""
    call = sandboxes.get_all("", status="all" if everything else None)
    with remote.connected(context) as nsbox:
        data = nsbox.raw(call)
    if as_json:
        remote.echo_json(data)
        return
    found = call.parse(data)
    if quiet:
        for one in found:
            click.echo(one.id)
        return
    now = datetime.now(UTC)
    remote.table(
        ("SANDBOX", "STATUS", "FROM", "VCPUS", "MEMORY", "AGE", "ENDS IN"), (_row(one, now) for one in found)
    )


def _row(one: SandboxInfo, now: datetime) -> tuple[str, ...]:
    if one.ended_at is not None:
        left = one.end_reason or "ended"
    elif one.expires_at is not None:
        left = span((one.expires_at - now).total_seconds())
    else:
        left = "paused"
    age = span((now - one.created_at).total_seconds())
    return one.id, one.status, one.template_id, str(one.vcpus), f"{one.memory_mb} MiB", age, left


def span(seconds: float) -> str:
    """About so long."""
    left = max(int(seconds), 0)
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if left >= 2 * size:
            return f"{left // size}{unit}"
    return f"{left}s"
