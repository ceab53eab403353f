"""The command ``completion``: what a shell reads so that the Tab key completes commands, options and paths."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that has SHELL complete hiersrec: its commands, options, choices and paths.

    For every new shell:

    \b
    echo 'eval "$(hiersrec completion bash)"' >> ~/.bashrc
    echo 'eval "$(hiersrec completion zsh)"' >> ~/.zshrc
    hiersrec completion fish > ~/.config/fish/completions/hiersrec.fish
    """
    made = get_completion_class(shell)
    assert made is not None  # click has one for each choice
    root = click.get_current_context().find_root().command
    click.echo(made(root, {}, "hiersrec", "_HIERSREC_COMPLETE").source())
