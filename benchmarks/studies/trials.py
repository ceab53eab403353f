"""Trainings that are compared with each other, kept in a work folder: what is done is not done again, what was stopped
goes on."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from typing import Any

import click

from benchmarks.studies.data_sets import DATA_SETS, prepared
from benchmarks.studies.pages import command_line
from hiersrec_export.export import export
from hiersrec_training.config import Config
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.run import RunInfo, part_of
from hiersrec_training.train import train


@dataclass(frozen=True)
class Trial:
    """A training. ``settings``: over those of the others; ``change``: makes its data set from that of the others."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    change: Callable[[Dataset], Dataset] | None = None


@dataclass(frozen=True)
class Trained:
    """What came out: the run folder, its ``run.json``, and the dataset folder that it was trained on."""

    run: Path
    info: RunInfo
    data: Path

    @property
    def leaf_accuracy(self) -> float:
        """How often the most probable leaf category was right on the validation split."""
        return self.info.metrics[f"category_accuracy_{len(self.info.shape.categories) - 1}"]

    def bundle(self, calibrate_with: Path | None = None) -> Path:
        """The run's bundle, beside it; exported where it is not there yet."""
        bundle = self.run.with_name(f"{self.run.name}-bundle")
        if not bundle.exists():
            export(
                self.run, bundle, data_path=self.data, calibrate_with=calibrate_with, report=lambda line: None
            )
        return bundle


@dataclass(frozen=True)
class Bench:
    """One data set and where its trainings are kept; ``settings`` are those of every trial.

    The command line of each study makes it: see :func:`study_options`.
    """

    name: str
    data: Path
    folder: Path
    settings: Mapping[str, Any]
    seeds: int

    def about(self, data: Dataset) -> str:
        """What a table says above it."""
        examples = data.validation.example_count
        return f"{self.name}: {len(data.train):,} training sessions, {examples:,} validation examples"

    def run(self, trial: Trial, validated_by: Path | None = None) -> list[Trained]:
        """Train ``trial`` once for each seed; with ``validated_by`` as a final run."""
        slug = re.sub(r"[^a-z0-9.]+", "-", trial.name.lower()).strip("-")
        data = self.data
        if trial.change is not None:
            data = self.folder / f"{slug}-data"
            if not data.exists():
                trial.change(Dataset.load(self.data)).save(data)
        found = []
        for seed in range(self.seeds):
            out = self.folder / (f"{slug}-{seed}" if self.seeds > 1 or seed else slug)
            config = Config.from_dict({**self.settings, **trial.settings, "seed": seed})
            found.append(Trained(out, _trained(data, out, config, validated_by), data))
            click.echo(f"{self.name}, {trial.name}, seed {seed}: {found[-1].info.seconds:,.0f} s", err=True)
        return found


def _trained(data: Path, out: Path, config: Config, validated_by: Path | None) -> RunInfo:
    if out.exists():
        info = RunInfo.load(out)
        if info.config != config or info.data["fingerprint"] != Dataset.load(data).fingerprint:
            raise click.ClickException(
                f"{out} was trained on other data or with other settings: move it away"
            )
        return info
    return train(
        data,
        out,
        config,
        final=validated_by is not None,
        validated_by=validated_by,
        device="auto",
        resume=part_of(out).exists(),
        report=lambda line: None,
        progress=sys.stderr.isatty(),
    )


@dataclass(frozen=True)
class Asked:
    """What the command line of a study with trainings was given: see :func:`study_options`."""

    source: Path
    work: Path
    out: Path
    seeds: int
    epochs: int | None
    sessions: int | None
    names: tuple[str, ...]

    def benches(self, reduced: bool = True) -> list[Bench]:
        return benches(self.source, self.work, self.names, self.seeds, self.epochs, self.sessions, reduced)

    def command(self, study: str, **further: Any) -> str:
        """As it is shown on the page; ``further`` options are the study's own."""
        shared = {
            "seeds": self.seeds,
            "epochs": self.epochs,
            "sessions": self.sessions,
            "data_set": self.names,
        }
        return command_line(study, self.out, **shared, **further)


def study_options(study: Callable[..., None]) -> Callable[..., None]:
    """The arguments and options that studies with trainings share, as their first argument."""

    @wraps(study)
    def command(
        source: Path,
        work: Path,
        out: Path,
        seeds: int,
        epochs: int | None,
        sessions: int | None,
        names: tuple[str, ...],
        **further: Any,
    ) -> None:
        study(Asked(source, work, out, seeds, epochs, sessions, names), **further)

    found: Callable[..., None] = command
    for option in reversed(
        (
            click.argument("source", type=click.Path(path_type=Path, exists=True)),
            click.option(
                "--work",
                type=click.Path(path_type=Path),
                required=True,
                help="Folder of the trainings; resumed.",
            ),
            click.option(
                "--out",
                type=click.Path(path_type=Path),
                required=True,
                help="Folder for the table and the picture.",
            ),
            click.option(
                "--seeds", default=1, show_default=True, help="Trainings of each row, seeds from 0 on."
            ),
            click.option("--epochs", type=int, help="Of each training. [by data set]"),
            click.option(
                "--sessions",
                type=int,
                help="Train on the newest so many sessions only, in every row. [by data set]",
            ),
            click.option(
                "--data-set",
                "names",
                multiple=True,
                type=click.Choice(list(DATA_SETS)),
                help="Repeatable. [all]",
            ),
        )
    ):
        found = option(found)
    return found


def benches(
    source: Path,
    work: Path,
    names: Sequence[str],
    seeds: int = 1,
    epochs: int | None = None,
    sessions: int | None = None,
    reduced: bool = True,
) -> list[Bench]:
    """One for each data set that ``source`` holds.

    ``reduced``: where nothing else is said, with the fewer sessions and epochs of studies with many trainings.

    Raises:
        ClickException: it holds none.
    """
    found = []
    for name in names or DATA_SETS:
        data = prepared(name, source, work)
        if data is None:
            continue
        folder = work / name
        fewer, shorter = DATA_SETS[name].reduced if reduced else (None, None)
        fewer, shorter = sessions or fewer, epochs or shorter
        if fewer is not None:
            whole, data = data, folder / f"data-{fewer}"
            if not data.exists():
                newest(Dataset.load(whole), fewer).save(data)
            folder = folder / f"{fewer}"
        settings = dict(DATA_SETS[name].settings)
        if shorter is not None:
            settings["epochs"] = shorter
            folder = folder / f"{shorter}-epochs"
        found.append(Bench(name, data, folder, settings, seeds))
    if not found:
        raise click.ClickException(f"{source} holds none of the data sets")
    return found


def newest(data: Dataset, sessions: int) -> Dataset:
    """``data`` with the newest so many training sessions only; the items stay."""
    return replace(data, train=data.train.newest(sessions))
