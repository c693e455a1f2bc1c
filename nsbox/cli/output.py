"""How the commands speak to a person: a little colour on a terminal, plain text anywhere else."""

from __future__ import annotations

import os
import sys
from typing import NoReturn, TextIO

import click

from nsbox.kernel import journal
from nsbox.model.errors import HostProblem


def has_colour(stream: TextIO) -> bool:
    """NO_COLOR (no-color.org) counts when set to anything; a dumb terminal prints escapes as rubbish."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str, *, stream: TextIO | None = None, bold: bool = False) -> str:
    return click.style(text, fg=colour, bold=bold) if has_colour(stream or sys.stdout) else text


def report(problem: HostProblem) -> None:
    """One message on stderr, with what mends it."""
    if journal.is_journal(os.environ):
        journal.say(journal.ERROR, f"nsbox: {problem.detail}")
        if problem.remedy:
            journal.say(journal.ERROR, f"  remedy: {problem.remedy}")
        return
    click.echo(f"{paint('nsbox:', 'red', stream=sys.stderr, bold=True)} {problem.detail}", err=True)
    if problem.remedy:
        click.echo(f"  remedy: {problem.remedy}", err=True)


def fail(problem: HostProblem) -> NoReturn:
    """Report it, and end with status 1."""
    report(problem)
    sys.exit(1)


def size(count: float | None) -> str:
    """Bytes for people."""
    if count is None:
        return "-"
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def count(number: int, what: str) -> str:
    """``1 layer``, ``2 layers``."""
    return f"{number} {what}{'' if number == 1 else 's'}"
