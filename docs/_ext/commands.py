"""The commands of ``hiersrec`` as Markdown, from click: what ``--help`` says, with a heading for each command."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any, Final

import click

from hiersrec_sdk.cli.main import main

_PLACEHOLDER: Final = "<!-- commands -->"


def markdown() -> str:
    """All commands, in the order of ``hiersrec --help``."""
    with click.Context(main, info_name="hiersrec") as context:
        return "\n".join(_group(main, context))


def _group(group: click.Group, context: click.Context) -> Iterator[str]:
    for name, command in group.commands.items():
        with click.Context(command, info_name=name, parent=context) as inner:
            if isinstance(command, click.Group):
                yield from _group(command, inner)
            else:
                yield from _command(command, inner)


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    yield f"## {context.command_path}\n"
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"```text\n{context.command_path} {usage}\n```\n"
    yield from _text(inspect.cleandoc(command.help or ""))
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and record[1] and "--help" not in parameter.opts:
            names, meaning = record
            yield f"`{names}`\n: {_escaped(meaning)}\n"


def _text(text: str) -> Iterator[str]:
    """Paragraphs; one that click does not wrap is code."""
    for paragraph in text.split("\n\n"):
        if paragraph.startswith("\b\n"):
            yield "```text\n" + paragraph.removeprefix("\b\n") + "\n```\n"
        else:
            yield _escaped(paragraph) + "\n"


def _escaped(text: str) -> str:
    """Plain text as Markdown, option names and the like as code."""
    escaped = re.sub(r"([\\`*_<>\[\]{}#|~])", r"\\\1", text)
    return re.sub(r"(?<![\w`-])(--[a-z][a-z-]*)", r"`\1`", escaped)


def _fill_in(app: Any, name: str, source: list[str]) -> None:
    if _PLACEHOLDER in source[0]:
        source[0] = source[0].replace(_PLACEHOLDER, markdown())


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", _fill_in)
    return {"parallel_read_safe": True}
