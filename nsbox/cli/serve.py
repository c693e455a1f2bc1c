"""``nsbox serve``: from the command line to a supervisor. Root has become the service user before this."""

from __future__ import annotations

import os

import click

from nsbox import settings as settings_module
from nsbox.host import account, cgroups, facts
from nsbox.settings import LimitsMode


@click.command()
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 picks one.  [default: 8080]"
)
@click.option("--proxy-host", help="Address that previews are served on.  [default: 127.0.0.1]")
@click.option(
    "--proxy-port",
    type=click.IntRange(0, 65535),
    help="Port that previews are served on; 0 picks one.  [default: 8081, or 0 with --port 0]",
)
@click.option(
    "--state-dir", type=click.Path(file_okay=False), help="Where layers, records and sandboxes lie."
)
@click.option(
    "--limits",
    type=click.Choice([mode.value for mode in LimitsMode]),
    help="Refuse to serve where a limit cannot be enforced, or do what the host can.  [default: required]",
)
@click.option(
    "--config", type=click.Path(exists=True, dir_okay=False), help="A file of settings, nsbox.toml."
)
@click.option("--service-user", help="Who to become when started as root.  [default: nsbox]")
def serve(config: str | None, **options: str | int | None) -> None:
    """Serve the API until told to stop."""
    environment = dict(os.environ)
    settings = settings_module.load(environment, options, config)
    command, child = account.self_command(_arguments(options, config), environment)
    scoped = cgroups.scope_command(command, environment, facts.systemd(environment, os.getuid()))
    if scoped is not None:
        os.execvpe(scoped[0], scoped, child)  # noqa: S606
    from nsbox import supervisor  # late: everything above may end in an exec

    raise SystemExit(supervisor.run(settings, environment.get(settings_module.BOOTSTRAP_KEY_VARIABLE)))


def _arguments(options: dict[str, str | int | None], config: str | None) -> list[str]:
    """The same command line again, for the exec that enters a scope."""
    given = {**options, "config": config}
    return [
        "serve",
        *(f"--{name.replace('_', '-')}={value}" for name, value in given.items() if value is not None),
    ]
