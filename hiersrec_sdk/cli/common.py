"""Parts of several commands: errors as one line, imports of extras, options that commands share."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

import click
from click.shell_completion import CompletionItem

from hiersrec_sdk.arguments import integer_of, number_of
from hiersrec_sdk.errors import HierSRecError, InvalidItemIdError, InvalidOptionError, MissingExtraError
from hiersrec_sdk.options import Mode
from hiersrec_sdk.paths import as_path
from hiersrec_sdk.shown import shortened, shown

_LONGEST_ERROR: Final = 2_000  # characters

if TYPE_CHECKING:
    ParamType = click.ParamType
else:

    class ParamType(click.ParamType):
        """Takes the type that it gives in brackets, as click's own does from 8.4 on."""

        def __class_getitem__(cls, kind: Any) -> type:
            return cls


class PathType(ParamType[Path]):
    """A path of exactly the characters that are given: no pattern, no home folder, and never empty."""

    name = "path"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Path:
        """``value`` as a path; InvalidPathError names the option."""
        return as_path(value, _named(parameter))

    def shell_complete(
        self, context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Have the shell complete it, as it does for other commands."""
        return [CompletionItem(incomplete, type="file")]


class IntegerType(ParamType[int]):
    """An integer in the digits 0 to 9; of what ``int()`` takes beside, such as ``1_0`` or ``٣``, nothing."""

    name = "integer"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> int:
        """``value`` as an int."""
        found = value if isinstance(value, int) else integer_of(value)
        return self.fail(f"must be an integer, got {shown(value)}", parameter) if found is None else found


class NumberType(ParamType[float]):
    """A finite number in the digits 0 to 9; no ``nan``, no ``inf``, no ``1_0.5``."""

    name = "number"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        """``value`` as a float."""
        found = float(value) if isinstance(value, int | float) else number_of(value)
        return self.fail(f"must be a number, got {shown(value)}", parameter) if found is None else found


PATH: Final = PathType()
INTEGER: Final = IntegerType()
NUMBER: Final = NumberType()


class Group(click.Group):
    """A group of commands that prints an error of the SDK as one line on stderr, without a traceback."""

    def invoke(self, context: click.Context) -> Any:
        """Run a command; exit with 1 after an error."""
        for stream in (
            sys.stdout,
            sys.stderr,
        ):  # a name that the terminal's encoding lacks is no reason to fail
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(context)
        except (HierSRecError, OSError) as error:
            click.echo(f"Error: {shortened(' '.join(str(error).split()), _LONGEST_ERROR)}", err=True)
            context.exit(1)


class SectionOption(click.Option):
    """An option that ``--help`` lists under a heading, see :class:`SectionCommand`."""

    def __init__(self, *args: Any, section: str = "", **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.section = section


class SectionCommand(click.Command):
    """A command whose ``--help`` lists the options by section, in the order in which they are declared."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(context):
            record = parameter.get_help_record(context)
            if record is not None and isinstance(parameter, click.Option):
                section = parameter.section if isinstance(parameter, SectionOption) else "Other options"
                sections.setdefault(section, []).append(record)
        for section, records in sections.items():
            with formatter.section(section):
                formatter.write_dl(records)


class CandidateShare(ParamType[Any]):
    """A share of the bundle's rows, or "auto"."""

    name = "share"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        """``value`` as a float, or "auto" as it is."""
        return value if value == "auto" else NUMBER.convert(value, parameter, context)


mode_option = click.option(
    "--mode",
    type=click.Choice(get_args(Mode)),
    default="candidates",
    show_default=True,
    help="candidates: rank the items of the predicted categories; exact: rank every item; auto: exact where that is "
    "cheap.",
)
candidates_option = click.option(
    "--candidates",
    type=CandidateShare(),
    metavar="SHARE|auto",
    help="Share of the bundle's rows that are candidates, or auto: the most probable categories, as calibrated.  "
    "[default: the bundle's]",
)
split_option = click.option(
    "--split",
    type=click.Choice(["validation", "test"]),
    default="test",
    show_default=True,
    help="Sessions to evaluate on.",
)


def import_extra(module: str, command: str, extra: str = "train") -> Any:
    """Import a module of the packages that ``extra`` makes usable, when a command needs it.

    Raises:
        MissingExtraError: a package that the extra installs is missing.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(extra, f"hiersrec {command}", error.name or "") from error


def check_candidates(mode: str, candidates: Any) -> None:
    """Raise :class:`InvalidOptionError` where ``--candidates`` is given and would have no effect."""
    if candidates is not None and mode == "exact":
        raise InvalidOptionError("--candidates cannot be combined with --mode exact, which ranks every item")


def parse_ids(texts: Sequence[str], id_type: str) -> list[Any]:
    """Item ids from the command line, of the catalog's type.

    Raises:
        InvalidItemIdError: the catalog has integer ids, and one of ``texts`` is not an integer.
        click.NoSuchOption: one of ``texts`` looks like an option.
    """
    # commands leave arguments with a leading minus sign to their ids, so a mistyped option arrives here
    for text in texts:
        if text.startswith("--"):
            raise click.NoSuchOption(text)
    if id_type == "string":
        return list(texts)
    ids = []
    for text in texts:
        item_id = integer_of(text)
        if item_id is None:
            raise InvalidItemIdError(f"item ids of this catalog are integers, got {shown(text)}")
        ids.append(item_id)
    return ids


def _named(parameter: click.Parameter | None) -> str:
    """How the user calls an option or argument."""
    if parameter is None:
        return "path"
    return parameter.opts[0] if isinstance(parameter, click.Option) else parameter.human_readable_name


def labelled(identifier: int | str, name: str | None) -> str:
    """An id with its title or name, where it has another one."""
    return str(identifier) if name is None or name == str(identifier) else f"{identifier}  {name}"
