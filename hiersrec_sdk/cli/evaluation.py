"""Commands that measure: ``evaluate`` one bundle or baseline, ``compare`` a bundle with baselines."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from hiersrec_sdk import Recommender
from hiersrec_sdk.cli.common import (
    INTEGER,
    PATH,
    candidates_option,
    check_candidates,
    import_extra,
    mode_option,
    split_option,
)
from hiersrec_sdk.errors import InvalidOptionError

_COMPARED: Final = {"recall@20": 10, "mrr@20": 9, "ndcg@20": 9}  # width of the column by metric
_AT_CUTS: Final = ("recall", "mrr", "ndcg")
_OF_A_BUNDLE: Final = ("mode", "candidates", "include_session_categories", "threads", "backend")  # options


@click.command()
@click.argument("paths", nargs=-1, required=True, type=PATH, metavar="BUNDLE DATA")
@split_option
@mode_option
@candidates_option
@click.option(
    "--include-session-categories",
    is_flag=True,
    help="Take the leaf categories of the session's own items first; they count toward the budget.",
)
@click.option(
    "--baseline",
    metavar="NAME",
    help="Evaluate popular, markov, rules, sknn, stan or vstan under the same protocol instead; without BUNDLE.",
)
@click.option(
    "--set", "assignments", multiple=True, metavar="NAME=NUMBER", help="Setting of the baseline; repeatable."
)
@click.option("--json", "as_json", is_flag=True, help="Print one flat JSON object.")
@click.option("--threads", type=INTEGER, default=1, show_default=True, help="Threads of the session encoder.")
@click.option(
    "--backend",
    type=click.Choice(["c", "numba", "numpy"]),
    help="Ranking backend.  [default: the fastest available]",
)
def evaluate(
    paths: tuple[Path, ...],
    split: str,
    mode: str,
    candidates: Any,
    include_session_categories: bool,
    baseline: str | None,
    assignments: tuple[str, ...],
    as_json: bool,
    threads: int,
    backend: str | None,
) -> None:
    """Measure BUNDLE on the dataset folder DATA: every prefix of every session of the split is an example."""
    if len(paths) != (1 if baseline else 2):
        raise click.UsageError("give BUNDLE and DATA, or --baseline and DATA alone")
    check_candidates(mode, candidates)
    if baseline:
        _check_no_option_of_a_bundle()
    if assignments and not baseline:
        raise InvalidOptionError("--set needs --baseline; a bundle has the settings of its training")
    progress = sys.stderr.isatty()
    dataset = import_extra("hiersrec_training.data.dataset", "evaluate").Dataset.load(paths[-1])
    if baseline:
        baselines = import_extra("hiersrec_training.baselines", "evaluate")
        options = baselines.parse_options(assignments)
        method = baselines.baseline(baseline, _sessions_before(split, dataset), dataset.items, options)
        measured = baselines.evaluate_baseline(method, getattr(dataset, split), progress, split)
        metrics = {"baseline": baseline, **options, **measured}
    else:
        options = {}
        recommender = Recommender.load(paths[0], threads=threads, backend=backend)
        _note_what_it_has_seen(recommender, dataset, split)
        metrics = import_extra("hiersrec_training.evaluate", "evaluate").evaluate(
            recommender,
            dataset,
            split,
            mode=mode,
            candidates=candidates,
            include_session_categories=include_session_categories,
            progress=progress,
        )
    metrics["split"] = split
    click.echo(json.dumps(metrics) if as_json else _table(metrics, options))


@click.command()
@click.argument("bundle", type=PATH)
@click.argument("data", type=PATH)
@split_option
@candidates_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def compare(bundle: Path, data: Path, split: str, candidates: Any, as_json: bool) -> None:
    """Measure BUNDLE and simple baselines on the dataset folder DATA, all under the protocol of evaluate."""
    evaluation = import_extra("hiersrec_training.evaluate", "compare")
    baselines = import_extra("hiersrec_training.baselines", "compare")
    dataset = import_extra("hiersrec_training.data.dataset", "compare").Dataset.load(data)
    recommender = Recommender.load(bundle)
    _note_what_it_has_seen(recommender, dataset, split)
    progress = sys.stderr.isatty()
    rows: list[dict[str, Any]] = []
    for mode in ("candidates", "exact"):
        share = candidates if mode == "candidates" else None
        measured = evaluation.evaluate(
            recommender, dataset, split, mode=mode, candidates=share, progress=progress
        )
        rows.append({"method": f"HierSRec, {mode}", **measured})
    for name in baselines.COMPARED:
        method = baselines.baseline(name, _sessions_before(split, dataset), dataset.items)
        measured = baselines.evaluate_baseline(method, getattr(dataset, split), progress, split)
        rows.append({"method": name, "rows_scored": dataset.items, **measured})
    if as_json:
        click.echo("\n".join(json.dumps(row) for row in rows))
        return
    click.echo(f"{rows[0]['examples']:,} examples of the {split} split; {dataset.items:,} items")
    click.echo(f"{'':<22}{'Recall@20':>11}{'MRR@20':>10}{'NDCG@20':>10}{'items ranked':>14}")
    for row in rows:
        figures = "".join(f"{100 * row[name]:>{width}.2f}%" for name, width in _COMPARED.items())
        click.echo(f"{row['method']:<22}{figures}{row['rows_scored']:>14,.0f}")


def _check_no_option_of_a_bundle() -> None:
    """Check that none was given beside ``--baseline``.

    Raises:
        InvalidOptionError: one was.
    """
    context = click.get_current_context()
    for option in context.command.params:
        if option.name in _OF_A_BUNDLE and (
            context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
        ):
            raise InvalidOptionError(
                f"{option.opts[0]} cannot be combined with --baseline, which ranks every item in one way"
            )


def _note_what_it_has_seen(recommender: Recommender, dataset: Any, split: str) -> None:
    """Say where figures flatter a bundle, as it knows sessions of the split."""
    config = recommender.config
    if config["data"].get("fingerprint") != dataset.fingerprint:
        click.echo(
            "Note: the bundle was not trained on this dataset folder, and may know its sessions of another one",
            err=True,
        )
    elif split == "validation":
        is_trained = "validation" in config["metrics"].get("trained_on", "")
        done = "trained" if is_trained else "chosen (epoch, co-visitation scorer, cold-start bias)"
        click.echo(f"Note: the bundle was {done} on this split, which flatters its figures", err=True)


def _sessions_before(split: str, dataset: Any) -> Any:
    """Sessions that a baseline may learn from when it is evaluated on ``split``."""
    return dataset.train.then(dataset.validation) if split == "test" else dataset.train


def _table(metrics: dict[str, Any], options: Collection[str]) -> str:
    """Metrics for a person: those at cuts as a table, the others, and ``options`` of a baseline, a line each."""
    cuts = sorted({int(name.partition("@")[2]) for name in metrics if name.startswith("recall@")})
    lines = ["            " + "".join(f"{'@' + str(cut):>9}" for cut in cuts)]
    for name in _AT_CUTS:
        lines.append(f"{name:<12}" + "".join(f"{100 * metrics[f'{name}@{cut}']:>8.2f}%" for cut in cuts))
    for name, value in metrics.items():
        if name.partition("@")[0] not in _AT_CUTS:
            shown = f"{value:g}" if name in options else _formatted(name, value)
            lines.append(f"{name.replace('_', ' '):<24}{shown}")
    return "\n".join(lines)


def _formatted(name: str, value: Any) -> str:
    if isinstance(value, float):
        is_fraction = value <= 1 and name != "sessions_per_second"
        return f"{100 * value:.2f}%" if is_fraction else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
