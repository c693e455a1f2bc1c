"""The command ``nsbox``. A subcommand's module is imported only when that subcommand is used."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import click

from nsbox import __version__
from nsbox.cli.output import report
from nsbox.model.errors import HostProblem

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class _Entry(NamedTuple):
    """Where a subcommand is. ``as_service_user``: started by root, it becomes the service user first.

    ``service_state``: it means the service's own state folder then, and not one for throw-away daemons.
    """

    module: str
    summary: str
    as_service_user: bool = True
    service_state: bool = False
    runs_daemon: bool = False


def _client(module: str, summary: str) -> _Entry:
    """A command that speaks to a daemon, as whoever calls it: with their contexts, from their files."""
    return _Entry(f"nsbox.cli.{module}", summary, as_service_user=False)


_COMMANDS = {
    "serve": _Entry("nsbox.cli.serve", "Run the daemon.", service_state=True, runs_daemon=True),
    "demo": _Entry("nsbox.cli.demo", "Show a sandbox at work, over the real API.", runs_daemon=True),
    "run": _Entry("nsbox.cli.run", "Run one command in a throw-away sandbox.", runs_daemon=True),
    "shell": _Entry(
        "nsbox.cli.shell", "Open a terminal in a sandbox of a running daemon.", as_service_user=False
    ),
    "ps": _client("ps", "List your sandboxes."),
    "create": _client("create", "Make a sandbox."),
    "fork": _client("create", "Make sandboxes with the files of one."),
    "exec": _client("execute", "Run a command in a sandbox."),
    "cp": _client("cp", "Copy files and folders into a sandbox or out of it."),
    "logs": _client("logs", "Show what a process has written."),
    "ports": _client("ports", "Give a port of a sandbox an address."),
    "pause": _client("lifecycle", "Let sandboxes stand still."),
    "resume": _client("lifecycle", "Let paused sandboxes go on."),
    "kill": _client("lifecycle", "End sandboxes."),
    "metrics": _client("metrics", "Show what a sandbox uses now."),
    "context": _client("context", "Keep URLs and keys of daemons under names."),
    "completion": _client("completion", "Print the completion script for a shell."),
    "snapshot": _Entry(
        "nsbox.cli.snapshot", "Take, list, export and remove snapshots.", service_state=True, runs_daemon=True
    ),
    "image": _Entry(
        "nsbox.cli.image", "Pull, import, build and remove images.", service_state=True, runs_daemon=True
    ),
    "usage": _Entry(
        "nsbox.cli.usage", "Show what sandboxes have cost.", service_state=True, runs_daemon=True
    ),
    "keys": _Entry("nsbox.cli.keys", "Make, list and revoke API keys.", service_state=True),
    "users": _Entry("nsbox.cli.users", "Make, list, disable and remove users.", service_state=True),
    "audit": _Entry(
        "nsbox.cli.audit", "Show who did what, from where.", service_state=True, runs_daemon=True
    ),
    "doctor": _Entry("nsbox.cli.doctor", "Say what this host offers and how to mend it.", service_state=True),
    "setup": _Entry("nsbox.cli.setup", "Prepare this host (as root).", as_service_user=False),
}


#: Commands whose names are words of Python's.
_FUNCTIONS = {"exec": "execute"}


class _LazyGroup(click.Group):
    """``nsbox --version`` and ``nsbox --help`` import no subcommand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = _COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command = getattr(importlib.import_module(entry.module), _FUNCTIONS.get(cmd_name, cmd_name))
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in _COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """click would import every subcommand for its summary."""
        from click.shell_completion import CompletionItem

        names = [
            CompletionItem(name, help=entry.summary)
            for name, entry in _COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        # Before the subcommand reads its arguments: what it opens and makes is the service user's.
        if args and not ctx.resilient_parsing and os.geteuid() == 0 and not _asks_for_help(args):
            _leave_root(args)
        return super().resolve_command(ctx, args)


def _asks_for_help(args: Sequence[str]) -> bool:
    options = args[: args.index("--")] if "--" in args else args
    return "--help" in options


def _service_user(args: Sequence[str]) -> str | None:
    """``--service-user`` of serve, which decides before click has read anything."""
    for option, value in zip(args, [*args[1:], None], strict=True):
        if option == "--service-user":
            return value
        if option.startswith("--service-user="):
            return option.partition("=")[2]
    return None


def _leave_root(args: Sequence[str]) -> None:
    entry = _COMMANDS.get(args[0])
    if entry is None or not entry.as_service_user:
        return
    from nsbox import settings
    from nsbox.host import account, cgroups

    defaults = {"NSBOX_STATE_DIR": settings.SYSTEM_STATE_DIR} if entry.service_state else {}
    user = _service_user(args) or settings.load(os.environ).service_user
    if entry.runs_daemon:
        cgroups.delegate_as_root(user)
    account.drop_to(user, args, defaults)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["--help"]})
@click.version_option(__version__, prog_name="nsbox")
def cli() -> None:
    """Isolated Linux environments over a plain REST API, on one host, without root.

    Started by root, what runs a daemon or works on its state becomes the service user first (`nsbox setup`
    makes it).
    """


def main() -> None:
    """The entry point. A host that lacks something gets advice, not a traceback."""
    try:
        cli(prog_name="nsbox")
    except HostProblem as problem:
        report(problem)
        sys.exit(1)
