"""The commands ``catalog apply`` and ``catalog compact``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from hiersrec_sdk import Recommender
from hiersrec_sdk.catalog.change_file import apply, read_changes, read_lines
from hiersrec_sdk.catalog.changes import Change
from hiersrec_sdk.catalog.feed import Feed, Follower, open_feed
from hiersrec_sdk.cli.common import INTEGER, PATH
from hiersrec_sdk.errors import (
    CatalogChangeError,
    ChangeSkippedError,
    FeedMissingError,
    InvalidArgumentError,
    InvalidOptionError,
)

_TOGETHER = 1_000  # changes that are published at once

FEED_METAVAR = "FILE|redis://HOST/DB?key=NAME"


@click.group()
def catalog() -> None:
    """Change the catalog of a bundle without training."""


@catalog.command("apply")
@click.argument("bundle", type=PATH)
@click.argument("changes", type=PATH)
@click.option(
    "--out",
    type=PATH,
    help="Bundle folder to write; a bundle that is there, which may be BUNDLE, is replaced in one step.",
)
@click.option("--feed", metavar=FEED_METAVAR, help="Change feed to publish to, in place of --out.")
@click.option("--new-feed", is_flag=True, help="Begin the change feed where there is none yet.")
def apply_changes(bundle: Path, changes: Path, out: Path | None, feed: str | None, new_feed: bool) -> None:
    """Apply CHANGES to the catalog of BUNDLE: a file with one JSON object per line.

    \b
    {"upsert": {"id": "sku-7", "category": ["Shoes", "Boots"], "text": "red boots", "numbers": {"price": 80}}}
    {"remove": "sku-3"}
    {"move": {"id": "sku-9", "category": "Boots"}}
    {"set_bias": {"id": "sku-9", "value": 1.5}}

    With --feed every replica that follows the change feed makes them; BUNDLE is read, to check them, and not written.
    """
    if (out is None) == (feed is None):
        raise InvalidOptionError(
            "give one of --out and --feed: a bundle to write, or a change feed to publish to"
        )
    if new_feed and feed is None:
        raise InvalidOptionError("--new-feed begins the change feed that --feed names: give --feed too")
    recommender = Recommender.load(bundle)
    with changes.open("rb") as file:
        if out is not None:
            done = apply(recommender.catalog, read_lines(file))
            recommender.save(out)
            where = f"written to {out}"
        else:
            with _opened(feed, new_feed) as log, recommender.follow(log) as follower:
                done = _published(read_changes(read_lines(file)), follower)
                where = f"published to {follower.feed.label}, up to record {follower.position:,}"
    counts = ", ".join(f"{count:,} {change}" for change, count in done.items() if count) or "no changes"
    click.echo(f"{counts}; {len(recommender.catalog):,} items; {where}")


def _opened(feed: str | None, new: bool) -> Feed:
    try:
        return open_feed(feed, make=new)
    except FeedMissingError as error:
        raise FeedMissingError(f"{error}; --new-feed begins it") from None


def _published(changes: Iterable[Change], follower: Follower) -> Counter[str]:
    """Publish changes in order; returns how many there were of each kind.

    Raises:
        CatalogChangeError: one that is none, or cannot be made; names its line. Those before it are made.
        ChangeSkippedError: others have changed the catalog meanwhile, so that one could not be made any more.
    """
    done: Counter[str] = Counter()
    for some in _batches(changes):
        try:
            follower.publish(some)
        except ChangeSkippedError as error:
            raise ChangeSkippedError(
                f"line {some[error.number - 1].number}: {error}; all up to line {some[-1].number} are published"
            ) from error
        except InvalidArgumentError:
            for change in some:  # to say which one it is
                try:
                    follower.publish([change])
                except InvalidArgumentError as error:
                    raise CatalogChangeError(f"line {change.number}: {error}") from error
        done.update(change.kind for change in some)
    return done


def _batches(changes: Iterable[Change]) -> Iterator[list[Change]]:
    """Some at a time; then the error of a line that cannot be read, after those before it."""
    found: list[Change] = []
    try:
        for change in changes:
            found.append(change)
            if len(found) == _TOGETHER:
                yield found
                found = []
    except CatalogChangeError:
        if found:
            yield found
        raise
    if found:
        yield found


@catalog.command("compact")
@click.argument("bundle", type=PATH)
@click.option("--feed", required=True, metavar=FEED_METAVAR, help="Change feed that the replicas follow.")
@click.option(
    "--keep",
    type=INTEGER,
    default=10_000,
    show_default=True,
    help="Newest records that stay in the feed, for replicas that are a little behind.",
)
def compact(bundle: Path, feed: str, keep: int) -> None:
    """Save the changes of a change feed in BUNDLE, and drop them from the feed.

    The bundle is replaced in one step, and says up to where it contains the feed. A replica that lacks records that
    were dropped says so, and has to load the bundle.
    """
    if keep < 0:
        raise InvalidOptionError(f"--keep must be an integer ≥ 0, got {keep}")
    recommender = Recommender.load(bundle)
    with open_feed(feed, make=False) as log:  # a mistyped one would make another log
        if not log.last:
            click.echo(f"{log.label} holds no record: {bundle} is left as it is")
            return
        with recommender.follow(log) as follower:
            pass
        recommender.save(bundle)
        log.drop(follower.position + 1 - keep)
        click.echo(
            f"{bundle} contains {log.label} up to record {follower.position:,}, which begins with record "
            f"{log.first:,} now; {follower.rejected:,} records were skipped"
        )
