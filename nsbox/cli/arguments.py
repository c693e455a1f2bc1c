"""What arguments of several commands mean."""

from __future__ import annotations

from collections.abc import Sequence

import click


def variables(given: Sequence[str]) -> dict[str, str]:
    """``K=V``, several times."""
    env = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{item!r} is not of the form K=V", param_hint="--env")
        env[name] = value
    return env
