"""``nsbox demo``: the API's first steps for real, against a daemon of its own."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import click

from nsbox.cli.client import Answer, Client, target
from nsbox.cli.output import paint
from nsbox.cli.private import private_daemon
from nsbox.model.errors import HostProblem

_PROGRAM = 'print("Hello from sandbox!")'
_PATH = "/app/hello.py"
_SHOWN = 400


class Step(NamedTuple):
    """A request, and what a right answer to it has in it."""

    title: str
    method: str
    path: str
    body: Any
    query: dict[str, str] | None
    expected: Callable[[Any], bool]


def _stdout_is(text: str) -> Callable[[Any], bool]:
    return lambda body: body["stdout"] == text and body["exitCode"] == 0


def steps(sandbox: str) -> list[Step]:
    """Everything after the sandbox is there; the last step kills it."""
    base = f"/sandboxes/{sandbox}"
    files = f"{base}/files"
    hello = {"path": _PATH}
    return [
        Step(
            "Run a command",
            "POST",
            f"{base}/exec",
            {"command": 'echo Hello && python3 -c "print(2+2)"'},
            None,
            _stdout_is("Hello\n4\n"),
        ),
        Step(
            "Write a file", "PUT", files, {"content": _PROGRAM}, hello, lambda body: body["written"] is True
        ),
        Step(
            "Run it",
            "POST",
            f"{base}/exec",
            {"command": f"python3 {_PATH}"},
            None,
            _stdout_is("Hello from sandbox!\n"),
        ),
        Step("Read it back", "GET", files, None, hello, lambda body: body["content"] == _PROGRAM),
        Step(
            "List the folder",
            "GET",
            files,
            None,
            {"path": "/app", "list": "true"},
            lambda body: "hello.py" in body["files"],
        ),
        Step("Kill the sandbox", "DELETE", base, None, None, lambda body: body["status"] == "stopped"),
    ]


def perform(client: Client, step: Step) -> Answer:
    """Do one step and show it. Raises ``HostProblem`` when the answer is not the expected one."""
    click.echo()
    click.echo(paint(f"# {step.title}", "cyan"))
    click.echo(curl_line(client.url, step))
    answer = client.request(step.method, step.path, step.body, query=step.query, patience_s=60)
    click.echo(f"{_shortened(answer.body)}  {paint(f'{answer.elapsed_ms:.1f} ms', 'green')}")
    if not answer.ok or not _as_expected(step, answer.body):
        raise HostProblem(f"{step.title}: not the expected answer: {answer.explain()}")
    return answer


def curl_line(url: str, step: Step) -> str:
    """The request as somebody would type it; the key stays a variable."""
    words = [] if step.method == "GET" else ["-X", step.method]
    line = " ".join(["curl", *words, shlex.quote(url + target(step.path, step.query))])
    line += ' -H "Authorization: Bearer $KEY"'
    if step.body is not None:
        line += f" -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(step.body))}"
    return line


def _as_expected(step: Step, body: Any) -> bool:
    try:
        return bool(step.expected(body))
    except (KeyError, TypeError, IndexError):
        return False


def _shortened(body: Any) -> str:
    text = json.dumps(body)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def tour(client: Client) -> float:
    """All steps; the sum of the times of the answers. A step that fails leaves no sandbox behind."""
    create = Step(
        "Create a sandbox", "POST", "/sandboxes", None, None, lambda body: body["status"] == "running"
    )
    created = perform(client, create)
    identity = created.body["id"]
    spent = created.elapsed_ms
    try:
        for step in steps(identity):
            spent += perform(client, step).elapsed_ms
    except BaseException:
        client.request("DELETE", f"/sandboxes/{identity}")
        raise
    return spent


@click.command()
def demo() -> None:
    """Create a sandbox, run a program in it, read and write files, kill it: over the real API of a daemon
    that is started for this and ended afterwards."""
    click.echo("Starting a daemon of its own (the first time this builds the default template) …")
    # A pipe that is read as we go sees each step when it happens.
    sys.stdout.flush()
    with private_daemon(os.environ) as daemon, Client(daemon.url, daemon.key) as client:
        spent = tour(client)
    click.echo()
    click.echo(f"All answers were as expected; {spent:.0f} ms in all. Your own daemon: nsbox serve")
