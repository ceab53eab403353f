"""What the search may change, and how it chooses: the ranges, the sampler, and which trials it gives up."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any, Final

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState

from hiersrec_training.config import Config

SPACE: Final[Mapping[str, BaseDistribution]] = {
    "epochs": IntDistribution(1, 8, log=True),
    "dropout": FloatDistribution(0.0, 0.6, step=0.05),
    "temperature": FloatDistribution(0.03, 0.15, log=True),
    "age_decay": FloatDistribution(0.0, 3.0, step=0.5),
    "learning_rate": FloatDistribution(5e-4, 8e-3, log=True),
    "batch_sessions": CategoricalDistribution((32, 64, 128, 256)),
}
"""The settings in which data sets differ, and where their best values lay."""

DRAWN: Final = 8  # trials, the defaults among them, before the sampler learns from them
FIRST: Final = 4  # finished trials before one is given up
EPOCHS: Final = "epochs"  # a trial's attribute


def searched(fixed: Collection[str]) -> dict[str, BaseDistribution]:
    """The ranges of the settings that are not ``fixed``."""
    return {name: values for name, values in SPACE.items() if name not in fixed}


def config_of(base: Config, params: Mapping[str, Any]) -> Config:
    """``base`` with the values of a trial, which are rounded to two digits: as a person would write them."""
    rounded = {
        name: float(f"{value:.2g}") if isinstance(value, float) else value for name, value in params.items()
    }
    return Config.from_dict(base.as_dict() | rounded)


def difference(config: Config, base: Config) -> dict[str, Any]:
    """The settings of ``config`` that ``base`` has not, but for the seed."""
    usual = base.as_dict()
    return {
        name: value for name, value in config.as_dict().items() if value != usual[name] and name != "seed"
    }


def sampler(seed: int, trials: int) -> optuna.samplers.BaseSampler:
    """Of a study that goes on after so many ``trials``: a resumed one must not draw the same again."""
    return optuna.samplers.TPESampler(
        multivariate=True, constant_liar=True, n_startup_trials=DRAWN, seed=(seed + 1_000 * trials) % 2**32
    )


class ScheduleMedian(optuna.pruners.BasePruner):
    """Gives up a trial that is below the median of the others at the same share of its epochs.

    The learning rate of each trial falls to 0 over its own number of epochs, so that the first epoch of two and the
    first of eight say different things. Between the epochs of another trial its MRR is taken to rise in a line.
    """

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether ``trial`` is not worth its next epoch."""
        epochs, values = trial.user_attrs[EPOCHS], trial.intermediate_values
        share = len(values) / epochs
        finished = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        if share >= 1 or len(finished) < FIRST:
            return False
        others = [at_share(curve_of(other), share) for other in finished]
        return max(values.values()) < median(others)


def curve_of(trial: FrozenTrial) -> list[tuple[float, float]]:
    """Share of the epochs, and the best MRR until then; from (0, 0) on."""
    points, best = [(0.0, 0.0)], 0.0
    for epoch, value in sorted(trial.intermediate_values.items()):
        best = max(best, value)
        points.append((epoch / trial.user_attrs[EPOCHS], best))
    return points


def at_share(curve: Sequence[tuple[float, float]], share: float) -> float:
    """The MRR of a curve at a share of the epochs; at the end of one that stopped before, its last."""
    for (left, low), (right, high) in pairwise(curve):
        if share <= right:
            return low + (high - low) * (share - left) / (right - left)
    return curve[-1][1]
