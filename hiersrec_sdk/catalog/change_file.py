"""Catalog changes from a file, one JSON object a line, see :mod:`hiersrec_sdk.catalog.changes`."""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from typing import IO, Final

from hiersrec_sdk.bundle.strict_json import parse_json
from hiersrec_sdk.catalog.changes import KINDS, Change, together
from hiersrec_sdk.catalog.writer import MutableCatalog
from hiersrec_sdk.errors import CatalogChangeError, InvalidArgumentError
from hiersrec_sdk.shown import shortened

_TOGETHER: Final = 1_000  # changes that are made at once
_LONGEST: Final = 16 << 20  # bytes of a line


def apply(catalog: MutableCatalog, lines: Iterable[str | bytes]) -> dict[str, int]:
    """Make the changes of ``lines``, text or UTF-8, in order; blank lines are skipped. Returns how many items each kind
    concerned.

    Whatever ends it early, an error or Ctrl-C: the changes up to some line are made, and none of those after it.

    Raises:
        CatalogChangeError: a line that is not a change, or one that cannot be made; names the line. Those before it are
            made.
    """
    done = Counter(dict.fromkeys(KINDS, 0))
    for changes in together(read_changes(lines), _TOGETHER):
        if len(changes) > 1:
            try:
                done.update(catalog.make(changes))
                continue
            except InvalidArgumentError:
                pass  # one by one, to say which one it is
        for change in changes:
            try:
                done.update(catalog.make([change]))
            except InvalidArgumentError as error:
                raise CatalogChangeError(f"line {change.number}: {error}") from error
    return dict(done)


def read_lines(file: IO[bytes]) -> Iterator[bytes]:
    """The lines of a file, of one that is too long only so much as shows it."""
    return iter(partial(file.readline, _LONGEST + 1), b"")


def read_changes(lines: Iterable[str | bytes]) -> Iterator[Change]:
    """The changes of ``lines``, text or UTF-8, each with the number of its line.

    Raises:
        CatalogChangeError: a line that is not a change; names it.
    """
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _parse(number, line)


def _parse(number: int, line: str | bytes) -> Change:
    if len(line) > _LONGEST:
        raise CatalogChangeError(f"line {number} is longer than {_LONGEST:,} bytes")
    try:
        content = line.encode() if isinstance(line, str) else line
        given = parse_json(content.removeprefix(codecs.BOM_UTF8) if number == 1 else content)
    except ValueError as error:
        raise CatalogChangeError(f"line {number} is not JSON: {shortened(error)}") from error
    try:
        return Change.of(given, number)
    except InvalidArgumentError as error:
        raise CatalogChangeError(f"line {number}: {error}") from error
