"""``nsbox completion``: what a shell needs to complete commands, options, and ids of sandboxes."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for a shell.

    bash, in ~/.bashrc: eval "$(nsbox completion bash)"; zsh, in ~/.zshrc: eval "$(nsbox completion zsh)";
    fish: nsbox completion fish > ~/.config/fish/completions/nsbox.fish
    """
    from nsbox.cli.main import cli

    kind = get_completion_class(shell)
    assert kind is not None
    made = kind(cli, {}, "nsbox", "_NSBOX_COMPLETE")
    # Not source(): for bash that starts one, to look at its version.
    click.echo(made.source_template % made.source_vars())
