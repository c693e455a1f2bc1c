"""``nsbox ports``: what listens in a sandbox, reachable from here."""

from __future__ import annotations

import click

from nsbox.cli import remote
from nsbox.client.routes import ports as routes
from nsbox.client.routes import sandboxes


@click.command()
@remote.sandbox_argument
@click.argument("port", type=click.IntRange(1, 65_535), required=False)
@click.option("--private", is_flag=True, help="Only for those with a link.")
@click.option("--tcp", is_flag=True, help="Any protocol, on a port of the host.")
@click.option("--wait", type=float, metavar="S", help="Until something listens there.")
@click.option("--link", type=int, metavar="S", help="An address for a private port, for so many seconds.")
@click.option("--close", is_flag=True, help="Take it away.")
@remote.options
def ports(
    sandbox: str,
    port: int | None,
    private: bool,
    tcp: bool,
    wait: float | None,
    link: int | None,
    close: bool,
    context: str | None,
    as_json: bool,
) -> None:
    """Give PORT of SANDBOX an address, and print it; without PORT, list those that have one."""
    with remote.told():
        here = sandboxes.at(sandbox)
    if port is None:
        _list(here, context, as_json)
        return
    with remote.connected(context) as nsbox:
        if close:
            closed = nsbox.raw(routes.close(here, port))
            shown, data = str(port), closed
        elif link is not None:
            made = routes.link(here, port, expires_in=link)
            data = nsbox.raw(made)
            shown = made.parse(data).url
        else:
            wish = routes.expose(
                here, port, protocol="tcp" if tcp else None, public=False if private else None, wait=wait
            )
            data = nsbox.raw(wish)
            found = wish.parse(data)
            shown = found.url
            if found.listening is False:
                click.echo("nsbox: nothing listens there yet", err=True)
    if as_json:
        remote.echo_json(data)
    else:
        click.echo(shown)


def _list(here: str, context: str | None, as_json: bool) -> None:
    call = routes.get_all(here)
    with remote.connected(context) as nsbox:
        data = nsbox.raw(call)
    if as_json:
        remote.echo_json(data)
        return
    rows = [
        (str(one.port), one.protocol, "public" if one.public else "private", one.url)
        for one in call.parse(data)
    ]
    remote.table(("PORT", "PROTOCOL", "WHO", "URL"), rows)
