"""Archives from the daemon, to a file or to standard output: for ``nsbox image export`` and ``nsbox
snapshot``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from nsbox.cli.local import client_of_this_host
from nsbox.model.errors import HostProblem

F = TypeVar("F", bound=Callable[..., Any])


def options(command: F) -> F:
    """``--output`` and ``--format``."""
    form = click.option(
        "--format",
        "form",
        type=click.Choice(["oci", "tar"]),
        default="oci",
        show_default=True,
        help="An OCI layout (for skopeo, podman, nsbox image import), or the plain files.",
    )
    where = click.option(
        "-o", "--output", default="-", metavar="FILE", help="Where to.  [default: standard output]"
    )
    return where(form(command))


def download(path: str, query: dict[str, str], output: str) -> None:
    """Raises ``HostProblem``. A FILE is there whole or not at all."""
    if output == "-" and sys.stdout.isatty():
        raise HostProblem("an archive is nothing for a terminal", remedy="give --output FILE, or a pipe")
    with client_of_this_host(os.environ) as client:
        if output == "-":
            client.download(path, query, sys.stdout.buffer.write)
            sys.stdout.buffer.flush()
            return
        partial = f"{output}.partial"
        try:
            with open(partial, "wb") as file:
                client.download(path, query, file.write)
            os.replace(partial, output)
        except OSError as error:
            raise HostProblem(f"{output} cannot be written: {error.strerror}") from error
        finally:
            if os.path.exists(partial):
                os.unlink(partial)
