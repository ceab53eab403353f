"""The command line ``hiersrec``: one command for each step from a click log to recommendations.

Commands that train or export import torch when they run, so that the runtime alone is enough for the others.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click

from hiersrec_sdk import Recommender, __version__, available_backends
from hiersrec_sdk.bundle.folder import CONFIG
from hiersrec_sdk.catalog.change_file import apply
from hiersrec_sdk.errors import HierSRecError, InvalidItemIdError, InvalidOptionError, MissingExtraError

FOLDER = click.Path(path_type=Path)
FILE = click.Path(path_type=Path)
MODES = ["candidates", "exact", "auto"]
MODE_HELP = "candidates: the predicted categories; exact: every item; auto: exact where that is cheap."
BUDGET_HELP = (
    "Share of the catalogue that is ranked, or auto: by the categories' probability. [the bundle's share]"
)


class _Budget(click.ParamType[Any]):
    """A share of the catalogue, or "auto"."""

    name = "SHARE|auto"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        return value if value == "auto" else click.FLOAT.convert(value, parameter, context)


BUDGET = _Budget()


class _Group(click.Group):
    """Errors of the SDK as one line on the error stream, without a traceback."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except HierSRecError as error:
            click.echo(f"Error: {error}", err=True)
            context.exit(1)
        except OSError as error:
            click.echo(f"Error: {error}", err=True)
            context.exit(1)


def _load(module: str, purpose: str, extra: str = "train") -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(extra, purpose, error.name or "") from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="hiersrec")
def main() -> None:
    """Session-based next-item recommendation: prepare click logs, train, export a bundle, recommend.

    \b
    hiersrec prepare events.csv --items items.csv --category-column category --test-days 7 --out data
    hiersrec train data --out run
    hiersrec export run --out bundle
    hiersrec evaluate bundle data
    hiersrec recommend bundle ITEM ITEM
    """


@main.command()
@click.argument("logs", nargs=-1, required=True, type=FILE)
@click.option("--out", required=True, type=FOLDER, help="Dataset folder to write; it must not exist.")
@click.option("--test-log", type=FILE, help="A log of what came after, as the test part.")
@click.option(
    "--format",
    "log_format",
    type=click.Choice(["auto", "events", "sessions"]),
    default="auto",
    show_default=True,
    help="events: one click a row (csv, csv.gz, tsv, parquet); sessions: one session a line, in order of time; "
    "auto: sessions for .txt, else events.",
)
@click.option(
    "--separator", help="Separates the fields of a log. [comma in csv, tab in tsv, white space in txt]"
)
@click.option("--session-column", help='Column of the session. ["session" where there is one]')
@click.option("--user-column", help="Column of the user, whose clicks are cut into sessions at a gap. [user]")
@click.option("--item-column", default="item", show_default=True, help="Column of the item.")
@click.option(
    "--time-column", default="time", show_default=True, help='Column of the time; "" for a log in order.'
)
@click.option(
    "--time-unit",
    type=click.Choice(["auto", "s", "ms", "us", "ns"]),
    default="auto",
    show_default=True,
    help="Unit of numeric times; auto goes by their size.",
)
@click.option("--event-column", help="Column of the type of event.")
@click.option("--event", "events", multiple=True, help="Type of event to keep, e.g. view; repeatable. [all]")
@click.option(
    "--session-gap",
    type=float,
    default=30,
    show_default=True,
    help="Minutes without a click that end a session.",
)
@click.option(
    "--log-category-column", help="Column of the log: the item's category, if there is no item table."
)
@click.option(
    "--items", type=FILE, help="Item table: csv, tsv or parquet; a row for each category of an item."
)
@click.option("--item-separator", help="Separates the fields of the item table. [comma for csv, tab for tsv]")
@click.option("--item-columns", help="Names of the item table's columns, by commas, where it has no header.")
@click.option(
    "--item-id-column", default="item", show_default=True, help="Item table: column of the item id."
)
@click.option(
    "--category-column",
    "category_columns",
    multiple=True,
    help="Item table: column of the category; repeat it for the levels of a tree, the top one first.",
)
@click.option("--category-path-separator", help='The category column holds a whole path, e.g. "." for a.b.c.')
@click.option("--category-tree", type=FILE, help="Table of category and parent category, empty at the top.")
@click.option("--tree-child-column", help="Category tree: column of the category. [the first]")
@click.option("--tree-parent-column", help="Category tree: column of the parent. [the second]")
@click.option(
    "--text-column", "text_columns", multiple=True, help="Item table: words to learn from; repeatable."
)
@click.option(
    "--text-encoder",
    default="hashed",
    show_default=True,
    metavar="NAME",
    help="Makes a vector of an item's text: hashed words, which the model learns; model2vec:FOLDER, a local model; "
    "MODULE:CALLABLE, your own.",
)
@click.option(
    "--item-vectors",
    type=FILE,
    metavar="FILE.npy",
    help="Your own vectors: floats [rows, width] for the item table's rows; NaN throughout for a row that has none.",
)
@click.option("--title-column", help="Item table: title to show to people; it may be the item id column.")
@click.option(
    "--number-column", "number_columns", multiple=True, help="Item table: numbers, as the price; repeatable."
)
@click.option("--url-decode", is_flag=True, help='Titles and texts are URL-encoded words joined by "_".')
@click.option(
    "--all-items", is_flag=True, help="Keep items of the table that nobody clicked in the training part."
)
@click.option(
    "--min-item-support",
    type=int,
    default=1,
    show_default=True,
    help="Fewest clicks of an item, counted in the training part.",
)
@click.option(
    "--min-session-length", type=int, default=2, show_default=True, help="Fewest clicks of a session."
)
@click.option(
    "--test-days", type=float, help="The test part is the sessions that end in the last so many days."
)
@click.option("--test-fraction", type=float, help="The test part is this last fraction of the sessions.")
@click.option(
    "--validation-fraction",
    type=float,
    default=0.1,
    show_default=True,
    help="The validation part is this last fraction of the training part's sessions.",
)
@click.option(
    "--shuffle-seed", type=int, help="Shuffle the sessions before they are split, where logs have no order."
)
def prepare(out: Path, logs: tuple[Path, ...], item_columns: str | None, **options: Any) -> None:
    """Read click LOGS and an item table, filter, split, and write a dataset folder."""
    prepare_options = _load("hiersrec_training.data.options", "hiersrec prepare").PrepareOptions
    prepare_data = _load("hiersrec_training.data.prepare", "hiersrec prepare").prepare
    if out.exists():
        raise InvalidOptionError(f"{out} exists already; choose another folder or remove it")
    names = tuple(name.strip() for name in item_columns.split(",")) if item_columns else ()
    prepare_data(prepare_options(logs=logs, item_columns=names, **options), click.echo).save(out)
    click.echo(f"written to {out}")


@main.command()
@click.argument("data", type=FOLDER)
@click.option(
    "--out", required=True, type=FOLDER, help="Run folder to write; until the end it is called OUT.part."
)
@click.option("--config", "config_file", type=FILE, help="TOML file of settings; see --show-config.")
@click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE", help="One setting; repeatable.")
@click.option("--seed", type=int, help="Short for --set seed=N.")
@click.option(
    "--final", is_flag=True, help="Train on training and validation part together, without validation."
)
@click.option(
    "--validated-by",
    type=FOLDER,
    metavar="RUN",
    help="With --final: take over what this run found on the validation part: its best epoch, its wide part, its bias "
    "of new items.",
)
@click.option("--resume", is_flag=True, help="Go on with the interrupted run OUT.part, with its settings.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to train.",
)
@click.option("--progress/--no-progress", default=None, help="Progress bars. [on a terminal]")
@click.option(
    "--show-config",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda context, parameter, wanted: _show_config(context) if wanted else None,
    help="Print all settings as TOML.",
)
def train(
    data: Path,
    out: Path,
    config_file: Path | None,
    assignments: tuple[str, ...],
    seed: int | None,
    final: bool,
    validated_by: Path | None,
    resume: bool,
    device: str,
    progress: bool | None,
) -> None:
    """Train a model on the dataset folder DATA and write a run folder.

    Validation after each epoch, early stop on MRR@20, the best epoch's weights are kept. Ctrl-C writes a checkpoint
    first; --resume goes on to the same weights as without the break.
    """
    # threads that wait for each other by spinning make training several times slower beside any other process
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    module = _load("hiersrec_training.train", "hiersrec train")
    if resume and (
        config_file or assignments or seed is not None or final or validated_by or device != "auto"
    ):
        raise InvalidOptionError("--resume keeps the settings of the interrupted run: leave the others out")
    given = [*assignments, *([f"seed={seed}"] if seed is not None else [])]
    if validated_by is not None:
        best = _load("hiersrec_training.run", "hiersrec train").finished_run(validated_by).best_epoch
        given.append(f"epochs={best}")
    config = _load("hiersrec_training.config", "hiersrec train").load_config(config_file, given)
    shown = sys.stderr.isatty() if progress is None else progress
    info = module.train(
        data,
        out,
        config,
        final=final,
        validated_by=validated_by,
        device=device,
        resume=resume,
        progress=shown,
        report=click.echo,
    )
    if info.metrics:
        click.echo(
            f"best epoch {info.best_epoch}: encoder's validation Recall@20 {info.metrics['recall@20']:.4f}, "
            f"MRR@20 {info.metrics['mrr@20']:.4f}"
        )
    click.echo(f"trained in {info.seconds:,.0f} s; written to {out}")


def _show_config(context: click.Context) -> None:
    config = _load("hiersrec_training.config", "hiersrec train").Config()
    for name, value in config.as_dict().items():
        click.echo(f"{name} = {json.dumps(value)}")
    context.exit()


@main.command()
@click.argument("run", type=FOLDER, metavar="RUN|BUNDLE")
@click.option("--out", type=FOLDER, help="Bundle folder to write, of a RUN; it must not exist.")
@click.option(
    "--standalone",
    type=FILE,
    metavar="FILE.onnx",
    help="Also write the whole bundle as one ONNX file: own ids in, own ids out. It must not exist.",
)
@click.option("--data", type=FOLDER, help="The run's dataset folder, where it was moved.")
@click.option(
    "--calibrate-with",
    type=FOLDER,
    metavar="RUN",
    help="Of a --final RUN: measure budgets of candidates with this run, trained without the validation part.",
)
@click.option("--name", help="Name for the model card. [the run's]")
def export(
    run: Path,
    out: Path | None,
    standalone: Path | None,
    data: Path | None,
    calibrate_with: Path | None,
    name: str | None,
) -> None:
    """Turn the training RUN into a bundle: ONNX graphs and the catalogue, checked against PyTorch.

    Budgets of candidates are measured on the validation part, for candidates="auto" and the model card. A --final run
    was trained on that part: --calibrate-with names the run, on the same data, that was not.

    --standalone writes one ONNX file that answers sessions by itself, in C#, Java, Rust, JavaScript or Triton: what
    mode "exact" answers, checked. It is made of the bundle alone: in the place of the run there may be a BUNDLE, then
    without --out.
    """
    step = partial(click.echo, err=True)
    for path in (out, standalone):
        if path is not None and os.path.lexists(path):
            raise InvalidOptionError(f"{path} exists already; choose another path or remove it")
    is_bundle = (run / CONFIG).is_file()  # a run has a run.json
    if is_bundle and (standalone is None or out or data or calibrate_with or name):
        raise InvalidOptionError(
            f"{run} is a bundle: it is exported with --standalone FILE.onnx, and no other option"
        )
    if not is_bundle and out is None:
        raise InvalidOptionError("say where the bundle goes: --out BUNDLE")
    if out is not None:
        _load("hiersrec_export.export", "hiersrec export").export(
            run,
            out,
            data_path=data,
            calibrate_with=calibrate_with,
            name=name,
            report=click.echo,
            step=step,
            progress=sys.stderr.isatty(),
        )
        click.echo(f"written to {out}")
    if standalone is not None:
        module = _load("hiersrec_export.standalone", "hiersrec export")
        module.export_standalone(out or run, standalone, report=click.echo, step=step)
        click.echo(f"written to {standalone}")


@main.command()
@click.argument("paths", nargs=-1, required=True, type=FOLDER, metavar="BUNDLE DATA")
@click.option(
    "--split",
    type=click.Choice(["validation", "test"]),
    default="test",
    show_default=True,
    help="Which part.",
)
@click.option("--mode", type=click.Choice(MODES), default="candidates", show_default=True, help=MODE_HELP)
@click.option("--candidates", type=BUDGET, help=BUDGET_HELP)
@click.option(
    "--include-session-categories",
    is_flag=True,
    help="The categories of the session's own items are candidates too.",
)
@click.option(
    "--baseline",
    metavar="NAME",
    help="Evaluate popular, markov, rules, sknn, stan or vstan under the same protocol instead; no BUNDLE is needed.",
)
@click.option(
    "--set", "assignments", multiple=True, metavar="NAME=NUMBER", help="Setting of the baseline; repeatable."
)
@click.option("--json", "as_json", is_flag=True, help="Print one flat JSON object.")
@click.option("--threads", type=int, default=1, show_default=True, help="Threads of the session encoder.")
@click.option(
    "--backend", type=click.Choice(["c", "numba", "numpy"]), help="Ranking backend. [the fastest there is]"
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
    """Measure BUNDLE on the dataset folder DATA: every prefix of every session of the part is a case."""
    if len(paths) > 2 or (len(paths) < 2 and not baseline):
        raise click.UsageError("give BUNDLE and DATA; DATA alone goes with --baseline")
    if candidates is not None and (mode == "exact" or baseline):
        raise InvalidOptionError("--candidates goes with the mode candidates of a bundle")
    if assignments and not baseline:
        raise InvalidOptionError("--set goes with --baseline; a bundle's settings are those of its training")
    shown = sys.stderr.isatty()
    data = _load("hiersrec_training.data.dataset", "hiersrec evaluate").Dataset.load(paths[-1])
    if baseline:
        module = _load("hiersrec_training.baselines", "hiersrec evaluate")
        sessions = data.train.then(data.validation) if split == "test" else data.train
        options = module.parse_options(assignments)
        method = module.baseline(baseline, sessions, data.items, options)
        metrics = {
            "baseline": baseline,
            **options,
            **module.evaluate_baseline(method, getattr(data, split), shown),
        }
    else:
        recommender = Recommender.load(paths[0], threads=threads, backend=backend)
        if recommender.config["data"].get("fingerprint") != data.fingerprint:
            click.echo("Note: the bundle was not trained on this dataset folder", err=True)
        module = _load("hiersrec_training.evaluate", "hiersrec evaluate")
        metrics = module.evaluate(
            recommender,
            data,
            split,
            mode=mode,
            candidates=candidates,
            include_session_categories=include_session_categories,
            progress=shown,
        )
    metrics["split"] = split
    click.echo(json.dumps(metrics) if as_json else _table(metrics))


@main.command()
@click.argument("bundle", type=FOLDER)
@click.argument("data", type=FOLDER)
@click.option(
    "--split",
    type=click.Choice(["validation", "test"]),
    default="test",
    show_default=True,
    help="Which part.",
)
@click.option("--candidates", type=BUDGET, help=BUDGET_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def compare(bundle: Path, data: Path, split: str, candidates: Any, as_json: bool) -> None:
    """Measure BUNDLE beside simple baselines on the dataset folder DATA, all under the protocol of evaluate."""
    evaluation = _load("hiersrec_training.evaluate", "hiersrec compare")
    baselines = _load("hiersrec_training.baselines", "hiersrec compare")
    dataset = _load("hiersrec_training.data.dataset", "hiersrec compare").Dataset.load(data)
    recommender = Recommender.load(bundle)
    shown = sys.stderr.isatty()
    sessions = dataset.train.then(dataset.validation) if split == "test" else dataset.train
    rows: list[dict[str, Any]] = []
    for mode in ("candidates", "exact"):
        share = candidates if mode == "candidates" else None
        metrics = evaluation.evaluate(
            recommender, dataset, split, mode=mode, candidates=share, progress=shown
        )
        rows.append({"method": f"HierSRec, {mode}", **metrics})
    for name in baselines.COMPARED:
        method = baselines.baseline(name, sessions, dataset.items)
        found = baselines.evaluate_baseline(method, getattr(dataset, split), shown)
        rows.append({"method": name, "rows_scored": dataset.items, **found})
    if as_json:
        click.echo("\n".join(json.dumps(row) for row in rows))
        return
    click.echo(f"{rows[0]['examples']:,} examples of the {split} split; of {dataset.items:,} items")
    click.echo(f"{'':<22}{'Recall@20':>11}{'MRR@20':>10}{'NDCG@20':>10}{'items ranked':>14}")
    for row in rows:
        figures = "".join(f"{100 * row[name]:>{width}.2f}%" for name, width in _COMPARED.items())
        click.echo(f"{row['method']:<22}{figures}{row['rows_scored']:>14,.0f}")


_COMPARED = {"recall@20": 10, "mrr@20": 9, "ndcg@20": 9}


def _table(metrics: dict[str, Any]) -> str:
    """Metrics for a person: those at cuts as a table, the others a line each."""
    cuts = sorted({int(name.partition("@")[2]) for name in metrics if name.startswith("recall@")})
    lines = ["            " + "".join(f"{'@' + str(cut):>9}" for cut in cuts)]
    for name in ("recall", "mrr", "ndcg"):
        lines.append(f"{name:<12}" + "".join(f"{100 * metrics[f'{name}@{cut}']:>8.2f}%" for cut in cuts))
    for name, value in metrics.items():
        if name.partition("@")[0] in ("recall", "mrr", "ndcg"):
            continue
        if isinstance(value, float):
            fraction = value <= 1 and name != "sessions_per_second"
            value = f"{100 * value:.2f}%" if fraction else f"{value:,.1f}"
        elif isinstance(value, int):
            value = f"{value:,}"
        lines.append(f"{name.replace('_', ' '):<24}{value}")
    return "\n".join(lines)


@main.command()
@click.argument("bundle", type=FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Print the bundle's config.json.")
def inspect(bundle: Path, as_json: bool) -> None:
    """Verify BUNDLE's checksums and say what it holds: model, data, sizes."""
    recommender = Recommender.load(bundle, verify=True)
    config = recommender.config
    if as_json:
        click.echo(json.dumps(config, indent=2))
        return
    levels = zip(config["levels"], config["categories"], strict=True)
    counts = config["data"].get("counts", {})
    rows = [
        ("bundle", f"{bundle}, schema {config['schema_version']}, by {config['created_by']}"),
        ("items", f"{config['items']:,}, ids {config['item_id_type']}"),
        ("categories", " > ".join(f"{size:,} ({level})" for level, size in levels)),
        ("vectors", f"{config['dimension']} wide, float32{_codes(recommender)}"),
        ("sessions", f"the newest {config['max_length']} clicks count"),
        ("candidates", f"{100 * config['candidate_share']:.3g} % of the catalogue by default"),
        ("candidates=auto", _budget(config.get("calibration"))),
        ("logs", ", ".join(config["data"].get("logs", [])) or "not noted"),
        ("trained on", str(config["metrics"].get("trained_on", "not noted"))),
    ]
    for split in ("train", "validation", "test"):
        if f"{split}_sessions" in counts:
            sizes = f"{counts[f'{split}_sessions']:,} sessions, {counts[f'{split}_examples']:,} examples"
            rows.append((f"{split} split", sizes))
    for name in ("recall@20", "mrr@20"):
        if name in config["metrics"].get("validation", {}):
            rows.append((f"validation {name}", f"{config['metrics']['validation'][name]:.4f}"))
    for name, about in config["files"].items():
        rows.append((name, f"{about['bytes']:,} bytes, SHA-256 {about['sha256'][:16]}…, verified"))
    rows.append(("ranking", f"{recommender.backend} (of {', '.join(available_backends())})"))
    rows.append(("instructions", _instructions()))
    rows.append(("providers", ", ".join(recommender.providers)))
    click.echo("\n".join(f"{name:<22}{value}" for name, value in rows))


def _budget(budgets: dict[str, Any] | None) -> str:
    if budgets is None:
        return "not measured: there was no validation part"
    seen = ", which was trained on" if budgets["trained_on"] else ""
    return (
        f"top_p {budgets['top_p']:.4g}, for {100 * budgets['kept']:.4g} % of the exact figures "
        f"on {budgets['examples']:,} examples of the {budgets['split']} split{seen}"
    )


def _codes(recommender: Recommender) -> str:
    codes = recommender.catalog.codes
    if codes is None:
        return ""
    return f", and int8 codes in stages up to dimensions {', '.join(map(str, codes.stage_ends.tolist()))}"


def _instructions() -> str:
    """The kernel's instruction set, which HIERSREC_ISA can force."""
    try:
        kernel = importlib.import_module("hiersrec_sdk._kernel")
    except ImportError:
        return "none: there is no compiled kernel here"
    return f"{kernel.isa()} (of {', '.join(kernel.available_isas())})"


# an id may begin with a minus sign
@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("bundle", type=FOLDER)
@click.argument("session", nargs=-1, metavar="[ITEM]...")
@click.option("-k", type=int, default=10, show_default=True, help="How many items.")
@click.option("--mode", type=click.Choice(MODES), default="candidates", show_default=True, help=MODE_HELP)
@click.option("--candidates", type=BUDGET, help=BUDGET_HELP)
@click.option("--on-unknown", type=click.Choice(["skip", "error"]), default="skip", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def recommend(
    bundle: Path, session: tuple[str, ...], k: int, mode: Any, candidates: Any, on_unknown: Any, as_json: bool
) -> None:
    """Recommend the next items after a session: ITEM ids, the oldest first."""
    if candidates is not None and mode == "exact":
        raise InvalidOptionError("--candidates goes with the mode candidates")
    recommender = Recommender.load(bundle)
    ids = _as_ids(session, recommender.config["item_id_type"])
    result = recommender.recommend(ids, k, mode=mode, candidates=candidates, on_unknown=on_unknown)
    hits = list(result)
    if as_json:
        answer = {
            "items": list(result.items),
            "scores": [float(score) for score in result.scores],
            "titles": [hit.title for hit in hits],
            "categories": [{"category": c.category, "probability": c.probability} for c in result.categories],
            "mode": result.mode,
            "rows_scored": result.rows_scored,
            "unknown_ids": result.unknown_ids,
        }
        click.echo(json.dumps(answer))
        return
    titles = [
        recommender.catalog.title(int(row)) if row >= 0 else None for row in recommender.catalog.rows(ids)
    ]
    for item, title in zip(ids, titles, strict=True):
        click.echo(f"clicked    {_named(item, title)}")
    for category in result.categories:
        click.echo(
            f"category   {100 * category.probability:5.1f} %  {_named(category.category, category.name)}"
        )
    for place, hit in enumerate(hits, 1):
        click.echo(f"{place:>4}  {hit.score:9.4f}  {_named(hit.item, hit.title)}")
    counted = f"; {result.unknown_ids} unknown items skipped" if result.unknown_ids else ""
    click.echo(f"{result.mode}: {result.rows_scored:,} of {len(recommender.catalog):,} items ranked{counted}")


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("bundle", type=FOLDER)
@click.argument("item")
@click.argument("session", nargs=-1, required=True, metavar="CLICK...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def explain(bundle: Path, item: str, session: tuple[str, ...], as_json: bool) -> None:
    """Say why ITEM has the score that it has after a session: CLICK ids, the oldest first."""
    recommender = Recommender.load(bundle)
    own, *clicks = _as_ids([item, *session], recommender.config["item_id_type"])
    explanation = recommender.explain(clicks, own)
    click.echo(json.dumps(asdict(explanation)) if as_json else str(explanation))


@main.group()
def catalog() -> None:
    """Change the catalogue of a bundle without training."""


@catalog.command("apply")
@click.argument("bundle", type=FOLDER)
@click.argument("changes", type=FILE)
@click.option(
    "--out", required=True, type=FOLDER, help="Bundle to write; one that is there is replaced in one step."
)
def apply_changes(bundle: Path, changes: Path, out: Path) -> None:
    """Write BUNDLE with the CHANGES of its catalogue, one JSON object a line.

    \b
    {"upsert": {"id": "sku-7", "category": ["Shoes", "Boots"], "text": "red boots", "numbers": {"price": 80}}}
    {"remove": "sku-3"}
    {"move": {"id": "sku-9", "category": "Boots"}}
    {"set_bias": {"id": "sku-9", "value": 1.5}}
    """
    recommender = Recommender.load(bundle)
    with changes.open(encoding="utf-8") as lines:
        done = apply(recommender.catalog, lines)
    recommender.save(out)
    counts = ", ".join(f"{count:,} {kind}" for kind, count in done.items() if count) or "no changes"
    click.echo(f"{counts}; {len(recommender.catalog):,} items; written to {out}")


def _as_ids(session: Sequence[str], id_type: str) -> list[Any]:
    if id_type == "string":
        return list(session)
    ids = []
    for item in session:
        try:
            ids.append(int(item))
        except ValueError:
            raise InvalidItemIdError(
                f"item id {item!r} is no whole number, as all ids of this catalogue are"
            ) from None
    return ids


def _named(own: int | str, name: str | None) -> str:
    return str(own) if name is None or name == str(own) else f"{own}  {name}"


@main.command()
@click.option("--out", required=True, type=FOLDER, help="Folder to write; it must not exist.")
@click.option("--items", type=int, default=2000, show_default=True, help="Items of the shop.")
@click.option("--sessions", type=int, default=20000, show_default=True, help="Sessions of its log.")
@click.option("--seed", type=int, default=0, show_default=True, help="Decides everything.")
@click.option("--days", type=int, default=30, show_default=True, help="Days that the log covers.")
def simulate(out: Path, items: int, sessions: int, seed: int, days: int) -> None:
    """Write a SIMULATED shop: an item table with three category levels, prices and names, and a click log."""
    run: Callable[..., Any] = _load("hiersrec_training.data.simulate", "hiersrec simulate").simulate
    run(out, items=items, sessions=sessions, seed=seed, days=days)
    click.echo(f"simulated shop written to {out}; README.txt in it says how to prepare it")
