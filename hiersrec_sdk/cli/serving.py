"""Commands that use a bundle: ``inspect``, ``recommend`` and ``explain``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from hiersrec_sdk import Recommender, available_backends
from hiersrec_sdk.bundle.schema import CARD
from hiersrec_sdk.catalog.tree import parse_name
from hiersrec_sdk.cli.batch import batch_options, recommend_sessions, taken_out
from hiersrec_sdk.cli.common import (
    INTEGER,
    PATH,
    SectionCommand,
    candidates_option,
    check_candidates,
    labelled,
    mode_option,
    parse_ids,
)
from hiersrec_sdk.ranking import instruction_sets, kernel_file, missing_kernel
from hiersrec_sdk.shown import printable


@click.command()
@click.argument("bundle", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print the bundle's config.json.")
def inspect(bundle: Path, as_json: bool) -> None:
    """Verify BUNDLE's checksums and describe it: model, data, sizes, and what would serve it here."""
    recommender = Recommender.load(bundle, verify=True)
    if as_json:
        click.echo(json.dumps(recommender.config, indent=2))
        return
    rows = [*_described(bundle, recommender), *_sources(recommender.config), *_runtime(recommender)]
    click.echo("\n".join(printable(f"{name:<22}{value}") for name, value in rows))


# an item id may begin with a minus sign
@click.command(cls=SectionCommand, context_settings={"ignore_unknown_options": True})
@click.argument("bundle", type=PATH)
@click.argument("session", nargs=-1, metavar="[ITEM]...")
@click.option("-k", type=INTEGER, default=20, show_default=True, help="Number of items to recommend.")
@mode_option
@candidates_option
@click.option(
    "--include-session-categories",
    is_flag=True,
    help="Take the leaf categories of the session's own items first; they count toward the budget.",
)
@click.option("--exclude-seen", is_flag=True, help="No items of the session itself.")
@click.option("--max-per-category", type=INTEGER, help="Most items of one leaf category.")
@click.option(
    "--on-unknown",
    type=click.Choice(["skip", "error"]),
    default="skip",
    show_default=True,
    help="What to do about items of the session that are not in the catalog.",
)
@click.option(
    "--category",
    "categories",
    multiple=True,
    help='Only items of this category: its id, or its path, such as \'["Men", "Shirts"]\'; repeatable.',
)
@click.option("--exclude-category", "exclude_categories", multiple=True, help="No items of this; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@batch_options
def recommend(
    bundle: Path,
    session: tuple[str, ...],
    k: int,
    categories: tuple[str, ...],
    exclude_categories: tuple[str, ...],
    as_json: bool,
    sessions: Path | None,
    out: Path | None,
    **options: Any,
) -> None:
    """Recommend the next items after a session: ITEM ids, the oldest first.

    With --sessions, do so for every session of a Parquet file, with several processes, into a folder of Parquet files.
    The same command goes on with a run that was killed.
    """
    check_candidates(options["mode"], options["candidates"])
    many = taken_out(options, sessions)
    if sessions is not None and (session or as_json):
        raise click.UsageError(f"{'--json' if as_json else 'ITEM'} cannot be combined with --sessions")
    if (sessions is None) != (out is None):
        raise click.UsageError("--sessions needs --out, and --out needs --sessions")
    recommender = Recommender.load(bundle)
    id_type = recommender.catalog.category_id_type
    options["categories"] = [parse_name(text, id_type) for text in categories] or None
    options["exclude_categories"] = [parse_name(text, id_type) for text in exclude_categories] or None
    if sessions is not None and out is not None:
        recommend_sessions(bundle, recommender, sessions, out, k=k, options=options, **many)
        return
    ids = parse_ids(session, recommender.config["item_id_type"])
    result = recommender.recommend(ids, k, **options)
    hits = list(result)
    if as_json:
        answer = {
            "items": list(result.items),
            "scores": [float(score) for score in result.scores],
            "titles": [hit.title for hit in hits],
            "categories": [
                {"category": hit.category, "path": hit.path, "probability": hit.probability}
                for hit in result.categories
            ],
            "mode": result.mode,
            "rows_scored": result.rows_scored,
            "unknown_ids": result.unknown_ids,
        }
        click.echo(json.dumps(answer))
        return
    catalog = recommender.catalog
    for item_id, row in zip(ids, catalog.rows(ids), strict=True):
        click.echo(f"clicked    {labelled(item_id, catalog.title(int(row)) if row >= 0 else None)}")
    for category in result.categories:
        label = catalog.category_label(category.path)
        click.echo(f"category   {100 * category.probability:5.1f} %  {label}")
    for rank, hit in enumerate(hits, 1):
        click.echo(f"{rank:>4}  {hit.score:9.4f}  {labelled(hit.item, hit.title)}")
    skipped = f"; {result.unknown_ids} unknown items skipped" if result.unknown_ids else ""
    click.echo(f"{result.mode}: {result.rows_scored:,} of {len(catalog):,} items ranked{skipped}")


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("bundle", type=PATH)
@click.argument("item")
@click.argument("session", nargs=-1, required=True, metavar="CLICK...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def explain(bundle: Path, item: str, session: tuple[str, ...], as_json: bool) -> None:
    """Explain the score of ITEM after a session: CLICK ids, the oldest first."""
    recommender = Recommender.load(bundle)
    item_id, *clicks = parse_ids([item, *session], recommender.config["item_id_type"])
    explanation = recommender.explain(clicks, item_id)
    click.echo(json.dumps(asdict(explanation)) if as_json else str(explanation))


def _described(bundle: Path, recommender: Recommender) -> list[tuple[str, str]]:
    """The bundle itself: its schema, its catalog, its vectors, its candidates."""
    config = recommender.config
    levels = zip(config["levels"], config["categories"], strict=True)
    return [
        ("bundle", f"{bundle}, schema {config['schema_version']}, by {config['created_by']}"),
        ("items", f"{len(recommender.catalog):,}, ids {config['item_id_type']}"),
        ("categories", " > ".join(f"{size:,} ({level})" for level, size in levels)),
        ("vectors", f"{config['dimension']} dimensions, float32{_codes(recommender)}"),
        ("sessions", f"the newest {config['max_length']} clicks count"),
        ("candidates", f"{100 * config['candidate_share']:.3g} % of the bundle's rows by default"),
        ("candidates=auto", _calibration(config.get("calibration"))),
    ]


def _sources(config: dict[str, Any]) -> list[tuple[str, str]]:
    """The data that the model was trained on, its metrics, and the files of the bundle."""
    counts, metrics = config["data"].get("counts", {}), config["metrics"]
    rows = [
        ("logs", ", ".join(config["data"].get("logs", [])) or "not recorded"),
        ("trained on", str(metrics.get("trained_on", "not recorded"))),
    ]
    for split in ("train", "validation", "test"):
        if f"{split}_sessions" in counts:
            sizes = f"{counts[f'{split}_sessions']:,} sessions, {counts[f'{split}_examples']:,} examples"
            rows.append((f"{split} split", sizes))
    for name in ("recall@20", "mrr@20"):
        if name in metrics.get("validation", {}):
            rows.append((f"validation {name}", f"{metrics['validation'][name]:.4f}"))
    for name, about in config["files"].items():
        if name == CARD:
            rows.append((name, "the model card, which may be edited, so it is not verified"))
        else:
            rows.append((name, f"{about['bytes']:,} bytes, SHA-256 {about['sha256'][:16]}…, verified"))
    return rows


def _runtime(recommender: Recommender) -> list[tuple[str, str]]:
    """What serves the bundle on this machine."""
    return [
        ("ranking", f"{recommender.backend} (of {', '.join(available_backends())})"),
        ("kernel", _kernel()),
        ("providers", ", ".join(recommender.providers)),
    ]


def _calibration(calibration: dict[str, Any] | None) -> str:
    if calibration is None:
        return "not calibrated: there was no validation split"
    seen = ", which was trained on" if calibration["trained_on"] else ""
    return (
        f"top_p {calibration['top_p']:.4g}, which keeps {100 * calibration['kept']:.4g} % of the exact metrics "
        f"on {calibration['examples']:,} examples of the {calibration['split']} split{seen}"
    )


def _codes(recommender: Recommender) -> str:
    codes = recommender.catalog.codes
    if codes is None:
        return ""
    return f", and int8 codes in stages up to dimensions {', '.join(map(str, codes.stage_ends.tolist()))}"


def _kernel() -> str:
    """The compiled kernel and the instruction set in use, which HIERSREC_ISA can force; or how to get a kernel."""
    sets = instruction_sets()
    return f"{kernel_file()}, {sets[0]} (of {', '.join(sets)})" if sets else f"none: {missing_kernel()}"
