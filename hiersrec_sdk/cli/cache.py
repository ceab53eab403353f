"""Commands about the cache of unpacked bundles and of text vectors: ``cache list`` and ``cache prune``."""

from __future__ import annotations

import time
from collections.abc import Sequence

import click

from hiersrec_sdk.bundle.cache import Entry, cache_folder, entries
from hiersrec_sdk.bundle.cache import prune as remove
from hiersrec_sdk.encoders.text_cache import TextEntry, prune_texts, text_entries


@click.group()
def cache() -> None:
    """What is kept to be used again: unpacked bundles, and vectors of texts.

    The cache is the folder $HIERSREC_CACHE, else $XDG_CACHE_HOME/hiersrec, else ~/.cache/hiersrec. It holds bundles
    from zip files and URLs, in the folder bundles, and the vectors that hiersrec prepare --text-encoder onnx:FOLDER
    has made, in the folder texts.
    """


@cache.command("list")
def list_entries() -> None:
    """List the unpacked bundles, what killed processes have left, and the vectors of each text encoder."""
    found, texts = entries(), text_entries()
    for entry in found:
        state = "left by a killed process" if not entry.whole else "in use" if entry.in_use else ""
        _show(entry, state)
    for each in texts:
        _show(each, "text vectors")
    click.echo(f"{_total(found, texts)} in {cache_folder()}")


@cache.command()
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="DAYS",
    help="Keep what was used in the last DAYS days.",
)
@click.option(
    "--in-use", is_flag=True, help="Also remove what processes have loaded now; it goes on working for them."
)
def prune(older_than: float, in_use: bool) -> None:
    """Remove unpacked bundles that no process has loaded, what killed processes have left, and text vectors."""
    removed = _total(remove(older_than, in_use), prune_texts(older_than))
    click.echo(f"removed {removed} from {cache_folder()}")


def _show(entry: Entry | TextEntry, state: str) -> None:
    days = (time.time() - entry.used) / 86_400
    line = f"{entry.path.name:<64}  {_size(entry.size):>10}  used {days:,.1f} days ago  {state}"
    click.echo(line.rstrip())


def _total(bundles: Sequence[Entry], texts: Sequence[TextEntry]) -> str:
    total = f"{len(bundles)} bundle{'' if len(bundles) == 1 else 's'}, {_size(sum(each.size for each in bundles))}"
    if texts:
        encoders = f"{len(texts)} text encoder{'' if len(texts) == 1 else 's'}"
        total += f", and the vectors of {encoders}, {_size(sum(each.size for each in texts))}"
    return total


def _size(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
