"""What the search may change, and which trials it gives up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from hiersrec_training.config import Config
from hiersrec_training.tuning.space import (
    EPOCHS,
    FIRST,
    SPACE,
    ScheduleMedian,
    at_share,
    config_of,
    difference,
    searched,
)


@st.composite
def params(draw: st.DrawFn) -> dict[str, Any]:
    """Values that the sampler may draw."""
    found: dict[str, Any] = {}
    for name, values in SPACE.items():
        if isinstance(values, CategoricalDistribution):
            found[name] = draw(st.sampled_from(values.choices))
        elif isinstance(values, IntDistribution):
            found[name] = draw(st.integers(values.low, values.high))
        elif isinstance(values, FloatDistribution):
            found[name] = draw(st.floats(values.low, values.high))
    return found


@given(params())
def test_whatever_is_drawn_is_a_configuration_that_the_command_line_takes(drawn: dict[str, Any]) -> None:
    base = Config(dimension=16, heads=2, seed=3)
    config = config_of(base, drawn)
    assert (config.dimension, config.heads, config.seed) == (16, 2, 3)
    for name, value in drawn.items():
        assert getattr(config, name) == pytest.approx(value, rel=0.06)  # two digits
    assert set(difference(config, base)) <= set(SPACE)
    assert Config.from_dict(base.as_dict() | difference(config, base)) == config


def test_the_defaults_can_be_drawn() -> None:
    usual = Config().as_dict()
    for name, values in SPACE.items():
        assert values._contains(values.to_internal_repr(usual[name])), name
    assert config_of(Config(), {name: usual[name] for name in SPACE}) == Config()


def test_fixed_settings_are_not_searched() -> None:
    assert set(searched(["dropout", "dimension"])) == set(SPACE) - {"dropout"}


def trial_of(epochs: int, values: Sequence[float], is_over: bool = True) -> FrozenTrial:
    return create_trial(
        state=TrialState.COMPLETE if is_over else TrialState.RUNNING,
        value=max(values) if is_over else None,
        user_attrs={EPOCHS: epochs},
        intermediate_values=dict(enumerate(values, 1)),
    )


def gives_up(others: Sequence[FrozenTrial], trial: FrozenTrial) -> bool:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    study.add_trials(list(others))
    return ScheduleMedian().prune(study, trial)


def test_a_trial_is_compared_at_the_same_share_of_its_epochs() -> None:
    others = [trial_of(2, [0.2, 0.3])] * FIRST
    # a quarter of eight epochs: half way to the first of two
    assert not gives_up(others, trial_of(8, [0.05, 0.11], is_over=False))
    assert gives_up(others, trial_of(8, [0.05, 0.09], is_over=False))
    # half of them: the first of two
    assert gives_up(others, trial_of(8, [0.05, 0.11, 0.15, 0.19], is_over=False))
    assert not gives_up(others, trial_of(8, [0.05, 0.11, 0.21, 0.19], is_over=False))  # its best counts


def test_no_trial_is_given_up_at_its_end_or_before_there_are_others() -> None:
    others = [trial_of(2, [0.2, 0.3])] * FIRST
    assert not gives_up(others, trial_of(2, [0.1, 0.1], is_over=False))
    assert not gives_up(others[1:], trial_of(8, [0.01], is_over=False))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 1))
def test_a_curve_rises_in_lines_through_its_points(values: list[float], share: float) -> None:
    best = [max(values[: place + 1]) for place in range(len(values))]
    curve = [(0.0, 0.0), *((place / len(values), value) for place, value in enumerate(best, 1))]
    for at, value in curve[1:]:
        assert at_share(curve, at) == pytest.approx(value)
    assert 0 <= at_share(curve, share) <= best[-1]
    assert at_share(curve, share) <= at_share(curve, min(1.0, share + 0.1)) + 1e-12
    assert at_share([(0.0, 0.0), (0.25, 0.4)], 0.9) == 0.4  # it stopped early
