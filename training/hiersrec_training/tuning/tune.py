"""``hiersrec tune``: a search among settings on the newest sessions, then finals on all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import optuna
from optuna.trial import TrialState

from hiersrec_sdk.arguments import is_integer
from hiersrec_sdk.atomic import write_file
from hiersrec_sdk.cpus import MOST_THREADS
from hiersrec_sdk.errors import ConfigError, EmptyLogError, InterruptedRunError, InvalidOptionError, RunError
from hiersrec_sdk.shown import shown
from hiersrec_training.config import Config
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.stop_signals import stop_signals
from hiersrec_training.tuning import report as reports
from hiersrec_training.tuning.finals import Finalist, Finals, finalists
from hiersrec_training.tuning.folder import (
    ERROR,
    About,
    alone,
    begin,
    clear,
    finished,
    open_trials,
    to_resume,
)
from hiersrec_training.tuning.search import Clock, Search, searched_data
from hiersrec_training.tuning.space import SPACE, ScheduleMedian, searched
from hiersrec_training.tuning.workers import Workers

SEARCH_SHARE: Final = 0.6  # of the hours; the rest is for the finals


@dataclass(frozen=True)
class Tuned:
    """What a study found; ``seconds``: of all its trainings, added up."""

    best: Finalist
    defaults: Finalist
    trials: int
    seconds: float


def tune(
    data_path: Path,
    out: Path,
    *,
    trials: int = 30,
    hours: float = 2.0,
    parallel: int = 1,
    sessions: int = 40_000,
    best: int = 3,
    seeds: int = 2,
    fixed: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    report: Callable[[str], None] = print,
) -> Tuned:
    """Search for settings that suit a dataset folder, and keep the study in the folder ``out``.

    Trials are compared by the encoder's MRR@20 on the validation split, which the test split has no part in.

    Args:
        data_path: a folder that ``prepare`` wrote.
        out: folder of the study.
        trials: of the search; the first one has the defaults.
        hours: that this call may take, 60 % of them for the search. No training begins after its share, and one that
            runs ends with its epoch.
        parallel: trainings at once, which share the processors.
        sessions: newest training sessions that the search trains on.
        best: trials of the finals, beside the defaults.
        seeds: trainings of each finalist, on all training sessions.
        fixed: settings that are not searched; the others of them are every training's too.
        seed: of the search.
        device: "auto", "cpu" or "cuda".
        resume: go on with the study in ``out``: with its ``sessions``, ``fixed``, ``seed`` and ``device``.
        report: takes lines for a person to read.

    Raises:
        InvalidOptionError: a number out of its range.
        EmptyLogError: the dataset has no validation split, or no training split.
        RunError: ``out`` cannot be made or resumed, or no trial was trained to its end.
        InterruptedRunError: SIGINT or SIGTERM arrived. What was done is kept, and trainings of the finals go on from a
            checkpoint.
    """
    _check(trials, hours, parallel, sessions, best, seeds)
    data_path, out = Path(data_path), Path(out)
    data = Dataset.load(data_path)
    for name in ("validation", "train"):
        if not getattr(data, name).example_count:
            raise EmptyLogError(
                f"{data_path}: the {name} split has no session of two clicks, and trials are compared by MRR@20 on the "
                "validation split: prepare more data, or another split of them"
            )
    if resume:
        about = to_resume(out, data_path, data)
    else:
        settings = Config.from_dict({**(fixed or {}), "seed": seed}).as_dict()
        about = About(
            str(data_path.resolve()),
            data.fingerprint,
            {name: settings[name] for name in fixed or {}},
            sessions,
            seed,
            device,
        )
        if not searched(about.fixed):
            raise ConfigError(f"every setting that is searched is fixed: leave out one of {', '.join(SPACE)}")
        begin(out, about, data)
    clock = Clock.of(3600 * hours)
    with alone(out), stop_signals() as stop:
        study = open_trials(out, about, ScheduleMedian())
        trained_on = min(about.sessions, len(data.train))
        report(
            f"search: {trials} trials on the newest {trained_on:,} of {len(data.train):,} training sessions, "
            f"{len(finished(study))} are done"
        )
        with Workers(parallel) as workers:
            search = Search(
                out,
                about,
                searched_data(out, about, data),
                study,
                trials,
                lambda: clock.is_past(SEARCH_SHARE),
                report,
            )
            search.run(workers, stop)
            _check_found(study, stop, out, hours)
            finals = Finals(out, about, finalists(about, finished(study), best), seeds, clock.is_past, report)
            finals.run(workers, stop)
            _check_found(study, stop, out, hours)
        clear(out)
        return _conclude(out, about, data, study, finals.found, seeds, report)


def _conclude(
    out: Path,
    about: About,
    data: Dataset,
    study: optuna.Study,
    found: list[Finalist],
    seeds: int,
    report: Callable[[str], None],
) -> Tuned:
    """Write and print what was found."""
    defaults, trials = found[0], finished(study)
    trained = [each for each in found if each.runs]
    is_compared = bool(defaults.runs) and len(trained) > 1
    if is_compared:
        best = max(trained, key=lambda each: each.mean)
    else:
        best = max(found, key=lambda each: each.searched or 0.0)
    write_file(out / reports.BEST, reports.best_toml(best, f"{best.name} of the study {out}"))
    if is_compared:
        said = [reports.final_table(trained, about.base), reports.verdict(best, defaults, trained, data)]
    else:
        said = ["There is nothing to compare yet but the search."]
    if any(len(each.runs) < seeds for each in found):
        said.append(
            "Runs of the finals are missing: they failed, or the time was over. --resume goes on with them."
        )
    picture = reports.picture(study, about.base, reports.importances(study))
    write_file(out / reports.PICTURE, picture)
    following = reports.commands(out, about, best)
    page = [
        f"# Study of {about.data}",
        *said,
        "The search:",
        reports.search_table(trials, about.base),
        f"![What mattered]({reports.PICTURE})",
        "\n".join(("```sh", *following, "```")),
    ]
    write_file(out / "report.md", "\n\n".join(page) + "\n")
    report("\n".join(("", *said, "")))
    report(f"written to {out}: {reports.BEST}, report.md, {reports.PICTURE}")
    report("next:")
    for command in following:
        report(f"  {command}")
    seconds = sum(trial.user_attrs.get("seconds", 0.0) for trial in trials)
    seconds += sum(info.seconds for each in found for _, info in each.runs.values())
    return Tuned(best, defaults, len(trials), seconds)


def _check(trials: int, hours: float, parallel: int, sessions: int, best: int, seeds: int) -> None:
    numbers = {"trials": trials, "sessions": sessions, "best": best, "seeds": seeds}
    for name, value in numbers.items():
        if not is_integer(value, 1):
            raise InvalidOptionError(f"{name} must be an integer ≥ 1, got {shown(value)}")
    if not is_integer(parallel, 1) or parallel > MOST_THREADS:
        raise InvalidOptionError(
            f"parallel must be an integer from 1 to {MOST_THREADS}, got {shown(parallel)}"
        )
    if not 0 < hours < 1e6:
        raise InvalidOptionError(f"hours must be a number > 0, got {shown(hours)}")


def _check_found(study: optuna.Study, stop: list[int], out: Path, hours: float) -> None:
    """Raise where the study was interrupted, or has nothing to choose from."""
    trials = finished(study)
    if stop:
        raise InterruptedRunError(
            f"stopped by signal {stop[0]}; {len(trials)} trials are kept in {out}: go on with --resume"
        )
    if any(trial.state == TrialState.COMPLETE for trial in trials):
        return
    errors = [trial.user_attrs[ERROR] for trial in trials if ERROR in trial.user_attrs]
    if errors:
        raise RunError(f"every trial failed, the first one with: {errors[0]}")
    raise RunError(f"no trial was trained to its end within {hours:g} hours: give it more, or fewer sessions")
