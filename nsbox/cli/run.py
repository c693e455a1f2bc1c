"""``nsbox run``: one command in a sandbox that is thrown away afterwards.

Exit status: the command's own; 128+N when signal N ended it; 124 timed out; 125 nsbox itself failed.
"""

from __future__ import annotations

import base64
import contextlib
import os
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from nsbox.cli import arguments, status
from nsbox.cli.client import Client
from nsbox.cli.output import report
from nsbox.cli.private import private_daemon
from nsbox.model.errors import HostProblem

#: Base64 makes it 8 MiB, well within what the API takes in one JSON document.
_MAX_INPUT = 6 * 1024 * 1024


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--image", metavar="IMAGE", help="The template or image to start from.")
@click.option(
    "--env", "variables", multiple=True, metavar="K=V", help="A variable for the command; repeatable."
)
@click.option("--timeout", type=click.FloatRange(min=0.001, max=86_400), default=600.0, show_default=True,
              metavar="S", help="Kill the command after so many seconds.")  # fmt: skip
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(image: str | None, variables: Sequence[str], timeout: float, command: Sequence[str]) -> None:
    """Run COMMAND in a sandbox of its own: nsbox run -- python3 -c 'print(2+2)'

    With NSBOX_URL and NSBOX_API_KEY in the environment that daemon is asked, else one is started for this.
    Exit status: the command's; 128+N for signal N; 124 timed out; 125 nsbox itself failed.
    """
    env = arguments.variables(variables)
    try:
        with _daemon(os.environ) as client:
            code = _in_sandbox(client, image, list(command), env, timeout)
    except HostProblem as problem:
        report(problem)
        code = status.FAILED
    sys.exit(code)


@contextlib.contextmanager
def _daemon(environment: Mapping[str, str]) -> Iterator[Client]:
    url, key = environment.get("NSBOX_URL"), environment.get("NSBOX_API_KEY")
    if url and key:
        with Client(url, key) as client:
            yield client
        return
    with private_daemon(environment) as daemon, Client(daemon.url, daemon.key) as client:
        yield client


def _in_sandbox(
    client: Client, image: str | None, command: list[str], env: dict[str, str], timeout_s: float
) -> int:
    given = read_input()
    # The sandbox outlives its command by a little: were this process killed, nobody else would end it.
    wish: dict[str, Any] = {"timeoutMs": min(86_400_000, max(1_000, round((timeout_s + 60) * 1000)))}
    if image is not None:
        wish["image"] = image
    # An image may have to be fetched first.
    created = client.request("POST", "/sandboxes", wish, patience_s=600)
    if not created.ok:
        raise HostProblem(f"no sandbox: {created.explain()}")
    path = f"/sandboxes/{created.body['id']}"
    try:
        ask: dict[str, Any] = {
            "command": command,
            "env": env,
            "timeoutMs": max(1, round(timeout_s * 1000)),
            "encoding": "base64",
        }
        if given:
            ask["stdinBase64"] = base64.b64encode(given).decode()
        answer = client.request("POST", f"{path}/exec", ask, patience_s=timeout_s)
        if not answer.ok:
            raise HostProblem(f"the command did not run: {answer.explain()}")
        return show(answer.body)
    finally:
        with contextlib.suppress(HostProblem):
            client.request("DELETE", path)


def read_input() -> bytes:
    """What is piped or redirected into the command; nothing from a terminal, a closed stream or a device."""
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return b""
    if not (stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)):
        return b""
    data = b""
    while chunk := os.read(0, 1024 * 1024):
        data += chunk
        if len(data) > _MAX_INPUT:
            raise HostProblem(
                f"more than {_MAX_INPUT // 1024**2} MiB of standard input",
                remedy="write it to a file first: PUT …/files",
            )
    return data


def show(result: Mapping[str, Any]) -> int:
    """Pass the command's bytes on, and its end as an exit status."""
    for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
        stream.flush()
        stream.buffer.write(base64.b64decode(result[name]))
        stream.buffer.flush()
        if result.get(f"{name}Truncated"):
            click.echo(f"nsbox: the rest of {name} was cut off", err=True)
    return exit_status(result)


def exit_status(result: Mapping[str, Any]) -> int:
    return status.of(result.get("exitCode"), result.get("signal"), result.get("outcome"))
