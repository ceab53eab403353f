"""The finals: the best trials and the defaults, trained on all sessions with seeds that the search has not seen.

The best of many trials looks better than it is, as luck chose it too. Other seeds have no part in that choice, and
their spread says how much luck there is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import sqrt
from pathlib import Path
from statistics import fmean, variance
from typing import Final

from optuna.trial import FrozenTrial, TrialState

from hiersrec_training.config import Config
from hiersrec_training.run import RunInfo, part_of
from hiersrec_training.tuning.folder import About
from hiersrec_training.tuning.search import METRIC, remove, shown_settings
from hiersrec_training.tuning.space import config_of, difference
from hiersrec_training.tuning.workers import Ended, Job, Workers

DEFAULTS: Final = "defaults"


@dataclass
class Finalist:
    """Settings that are trained on all sessions; ``searched``: MRR@20 of their trial, where they had one.

    ``runs``: the finished run folders, by seed.
    """

    name: str
    config: Config
    searched: float | None = None
    runs: dict[int, tuple[Path, RunInfo]] = field(default_factory=dict)

    def values(self, metric: str = METRIC) -> list[float]:
        """Of each seed, on the validation split."""
        return [info.metrics[metric] for _, info in self.runs.values()]

    @property
    def mean(self) -> float:
        """Mean MRR@20."""
        return fmean(self.values())

    @property
    def best_run(self) -> Path:
        """The run folder with the highest MRR@20."""
        return max(self.runs.values(), key=lambda run: run[1].metrics[METRIC])[0]


def finalists(about: About, trials: Sequence[FrozenTrial], most: int) -> list[Finalist]:
    """The defaults, and the best ``most`` trials with other settings."""
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    found = [Finalist(DEFAULTS, about.base)]
    for trial in sorted(done, key=lambda trial: -(trial.value or 0.0)):
        config = config_of(about.base, trial.params)
        same = [each for each in found if each.config == config]
        if same:
            same[0].searched = same[0].searched or trial.value
        elif len(found) <= most:
            found.append(Finalist(f"trial {trial.number}", config, trial.value))
    return found


def noise(found: Sequence[Finalist]) -> float | None:
    """Standard deviation of the MRR@20 between seeds of the same settings; None without two of any."""
    several = [each.values() for each in found if len(each.runs) > 1]
    if not several:
        return None
    freedom = sum(len(values) - 1 for values in several)
    return sqrt(sum(variance(values) * (len(values) - 1) for values in several) / freedom)


class Finals:
    """Trains the finalists with so many ``seeds`` each, round by round.

    All sessions may need fewer epochs than the newest did. So where training stopped early, its best epoch is tried as
    the number of epochs too: then the learning rate has fallen by then, as it will in a final run.
    """

    def __init__(
        self,
        folder: Path,
        about: About,
        found: list[Finalist],
        seeds: int,
        is_over: Callable[[], bool],
        report: Callable[[str], None],
    ) -> None:
        self.found = found
        self._folder, self._about, self._seeds = folder, about, seeds
        self._is_over, self._report = is_over, report
        self._tried: set[str] = set()
        self._running: dict[str, tuple[Finalist, int, float]] = {}

    def run(self, workers: Workers, stop: list[int]) -> None:
        """All trainings that are missing. What is done is not done again, what was interrupted goes on."""
        workers.run(self._next, lambda job, epoch: not self._is_over(), self._end, stop)

    def _next(self) -> Job | None:
        for round_ in range(self._seeds):
            seed = (self._about.seed + 1 + round_) % 2**32
            for finalist in self.found:
                name = f"{finalist.name} seed {seed}".replace(" ", "-")
                out = self._folder / "runs" / name
                if name in self._tried:
                    continue
                self._tried.add(name)
                if out.exists():
                    self._take(finalist, seed, out)
                    return self._next()
                if self._is_over():
                    return None
                if not (part_of(out) / "run.json").exists():  # killed before there was anything to resume
                    remove(out)
                self._running[name] = finalist, seed, time.monotonic()
                config = replace(finalist.config, seed=seed)
                return Job(name, Path(self._about.data), out, config, self._about.device)
        return None

    def _end(self, job: Job, ended: Ended) -> None:
        finalist, seed, started = self._running.pop(job.name)
        if ended.how == "done":
            self._take(finalist, seed, job.out)
            what = f"MRR@20 {finalist.runs[seed][1].metrics[METRIC]:.4f}"
        elif ended.how == "failed":
            what = f"failed: {ended.message}"
        else:
            what = "interrupted"
        settings = shown_settings(difference(finalist.config, self._about.base))
        self._report(
            f"all sessions, {finalist.name}, {settings}, seed {seed}: {what}, {time.monotonic() - started:,.0f} s"
        )

    def _take(self, finalist: Finalist, seed: int, run: Path) -> None:
        info = RunInfo.load(run)
        finalist.runs[seed] = run, info
        shorter = replace(finalist.config, epochs=info.best_epoch)
        of_fewer = (
            self._about.sessions < info.data["counts"]["train_sessions"] and finalist.searched is not None
        )
        if of_fewer and all(each.config != shorter for each in self.found):
            self.found.append(Finalist(f"{finalist.name} epochs {info.best_epoch}", shorter))
