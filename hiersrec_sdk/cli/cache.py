"""Commands about the cache of unpacked bundles: ``cache list`` and ``cache prune``."""

from __future__ import annotations

import time

import click

from hiersrec_sdk.bundle.cache import Entry, cache_folder, entries
from hiersrec_sdk.bundle.cache import prune as remove


@click.group()
def cache() -> None:
    """Bundles from zip files and URLs, which are unpacked before they are loaded."""


@cache.command("list")
def list_entries() -> None:
    """List the unpacked bundles, and what killed processes have left."""
    found = entries()
    for entry in found:
        days = (time.time() - entry.used) / 86_400
        state = "left by a killed process" if not entry.whole else "in use" if entry.in_use else ""
        click.echo(
            f"{entry.path.name:<64}  {_size(entry.size):>10}  used {days:,.1f} days ago  {state}".rstrip()
        )
    click.echo(f"{_total(found)} in {cache_folder()}")


@cache.command()
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="DAYS",
    help="Keep what was loaded in the last DAYS days.",
)
@click.option(
    "--in-use", is_flag=True, help="Also remove what processes have loaded now; it goes on working for them."
)
def prune(older_than: float, in_use: bool) -> None:
    """Remove unpacked bundles that no process has loaded, and what killed processes have left."""
    click.echo(f"removed {_total(remove(older_than, in_use))} from {cache_folder()}")


def _total(found: list[Entry]) -> str:
    return f"{len(found)} bundle{'' if len(found) == 1 else 's'}, {_size(sum(entry.size for entry in found))}"


def _size(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
