"""What a study found: tables, the noise in them, a picture of what mattered, and the best settings as TOML."""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from statistics import NormalDist, fmean
from typing import Any, Final

import optuna
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from hiersrec_training.config import Config
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.tuning.finals import Finalist, noise
from hiersrec_training.tuning.folder import About
from hiersrec_training.tuning.search import shown_settings
from hiersrec_training.tuning.space import SPACE, config_of, difference

PICTURE: Final = "what_mattered.png"
BEST: Final = "best.toml"
_MOST: Final = 10  # trials of the table
_ENOUGH: Final = 8  # finished trials before the importance of a setting means anything


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the first column is text, the others are figures."""
    rule = ["---", *("--:" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def final_table(found: Sequence[Finalist], base: Config) -> str:
    """The finalists, the best first."""
    rows = [
        [
            _named(each, base),
            "" if each.searched is None else f"{each.searched:.4f}",
            *(f"{fmean(each.values(metric)):.4f}" for metric in ("mrr@20", "recall@20")),
            _scorer(each),
            str(len(each.runs)),
        ]
        for each in sorted(found, key=lambda each: -each.mean)
    ]
    head = ["settings", "MRR@20, search", "MRR@20", "Recall@20", "MRR@20, whole model", "seeds"]
    return table(head, rows)


def _scorer(finalist: Finalist) -> str:
    values = [
        info.covisitation_metrics["mrr@20"] for _, info in finalist.runs.values() if info.covisitation_metrics
    ]
    return f"{fmean(values):.4f}" if values else ""


def _named(finalist: Finalist, base: Config) -> str:
    settings = shown_settings(difference(finalist.config, base))
    return f"`{settings}` ({finalist.name})" if difference(finalist.config, base) else settings


def search_table(trials: Sequence[FrozenTrial], base: Config) -> str:
    """The best trials of the search, and the defaults."""
    done = sorted(
        (trial for trial in trials if trial.state == TrialState.COMPLETE), key=lambda each: -(each.value or 0)
    )
    rows = [
        [
            shown_settings(difference(config_of(base, trial.params), base)) + f" (trial {trial.number})",
            f"{trial.value:.4f}",
            f"{trial.user_attrs.get('seconds', 0):,.0f}",
        ]
        for place, trial in enumerate(done)
        if place < _MOST or config_of(base, trial.params) == base
    ]
    return table(["settings", "MRR@20", "seconds"], rows)


def verdict(best: Finalist, defaults: Finalist, found: Sequence[Finalist], data: Dataset) -> str:
    """What the figures say, and how sure that is."""
    spread = noise(found)
    examples = data.validation.example_count
    error = sqrt(best.mean * (1 - best.mean) / examples)
    lines = []
    if best is defaults:
        lines.append("Nothing was better than the defaults.")
    else:
        gain = best.mean - defaults.mean
        settings = shown_settings(difference(best.config, defaults.config))
        share = f" ({gain / defaults.mean:+.1%})" if defaults.mean else ""
        lines.append(f"The best settings, {settings}, gain {gain:+.4f} MRR@20 over the defaults{share}.")
        if spread is not None:
            others = len(found) - 1
            doubt = _standard_errors(others) * spread * sqrt(1 / len(best.runs) + 1 / len(defaults.runs))
            more = "more" if gain > doubt else "no more"
            lines.append(
                f"That is {more} than luck with seeds would give: by that alone, the best of {others} gains over "
                f"{doubt:.4f} in one of forty studies at most."
            )
    lines.append(
        "Another seed moves the MRR@20 of the same settings by "
        + ("an unknown amount (--seeds 2 would tell)" if spread is None else f"±{spread:.4f}")
        + f"; with another {examples:,} validation examples each figure would move by up to ±{error:.4f}, differences "
        "by less. The search's own figures flatter the best trials, which luck helped to choose."
    )
    at_end = [name for name in SPACE if _is_at_end(name, getattr(best.config, name))]
    if best is not defaults and at_end:
        lines.append(
            f"At the end of what was searched: {', '.join(at_end)}. Values beyond may be better still: try one with "
            "--set, in a study of its own."
        )
    return " ".join(lines)


def _standard_errors(others: int) -> float:
    """How many the best of so many others exceeds by luck in one of forty studies; 1.96 for a single one."""
    return NormalDist().inv_cdf(1 - 0.025 / others)


def _is_at_end(name: str, value: Any) -> bool:
    values = SPACE[name]
    if isinstance(values, CategoricalDistribution):
        return value in (values.choices[0], values.choices[-1])
    assert isinstance(values, IntDistribution | FloatDistribution)
    is_least = value <= values.low and value > 0  # nothing is below 0, nor 1 epoch
    return (is_least and name != "epochs") or value >= values.high


def best_toml(best: Finalist, about: str) -> str:
    """The settings of the best that are not the defaults, as ``hiersrec train --config`` reads them."""
    settings = difference(best.config, Config())
    lines = [f"# {about}", *(f"{name} = {json.dumps(value)}" for name, value in settings.items())]
    return "\n".join(lines) + "\n"


def commands(folder: Path, about: About, best: Finalist) -> list[str]:
    """What to run next, for a bundle of the best settings."""
    device = () if about.device == "auto" else ("--device", about.device)
    train = ("hiersrec", "train", about.data, "--config", folder / BEST, *device)
    found: list[tuple[object, ...]] = []
    if best.runs:
        run = best.best_run
    else:
        run = folder / "validated"
        found.append((*train, "--out", run))
    final = folder / "final"
    found.append((*train, "--out", final, "--final", "--validated-by", run))
    found.append(("hiersrec", "export", final, "--out", folder / "bundle", "--calibrate-with", run))
    return [shlex.join(map(str, command)) for command in found]


def importances(study: optuna.Study) -> dict[str, float]:
    """Share of each setting in what made trials good, the largest first; empty where too few trials finished."""
    done = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    if len(done) < _ENOUGH:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
    return optuna.importance.get_param_importances(study, evaluator=evaluator)


def picture(study: optuna.Study, base: Config, shares: Mapping[str, float]) -> bytes:
    """PNG: the MRR of the trials by the value of each setting, the settings that mattered first."""
    trials = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    names = list(shares) or sorted({name for trial in trials for name in trial.params})
    figure = Figure(figsize=(12, 3.6 * -(-len(names) // 3)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)  # draws without a screen
    usual = [trial for trial in trials if config_of(base, trial.params) == base]
    best = max(trials, key=lambda trial: trial.value or 0)
    for place, name in enumerate(names, 1):
        axes = figure.add_subplot(-(-len(names) // 3), min(3, len(names)), place)
        for some, color, label, size in (
            (trials, "tab:blue", "trial", 22),
            (usual, "black", "defaults", 60),
            ([best], "tab:red", "best", 60),
        ):
            axes.scatter(
                [getattr(config_of(base, trial.params), name) for trial in some],
                [trial.value or 0 for trial in some],
                s=size,
                color=color,
                label=label,
            )
        _scale(axes, name)
        share = f", importance {shares[name]:.0%}" if shares else ""
        axes.set_title(f"{name}{share}", fontsize=10)
        axes.grid(alpha=0.3, linewidth=0.5)
        if place == 1:
            axes.legend(fontsize=8)
        if place % 3 == 1:
            axes.set_ylabel("MRR@20, validation split")
    figure.suptitle(f"What mattered: {len(trials)} trials that were trained to their end", fontsize=11)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _scale(axes: Axes, name: str) -> None:
    values = SPACE[name]
    if isinstance(values, CategoricalDistribution):
        axes.set_xscale("log", base=2)
        axes.set_xticks([float(str(choice)) for choice in values.choices])
    elif isinstance(values, IntDistribution | FloatDistribution) and values.log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
