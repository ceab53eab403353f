"""The command that looks for settings that suit a shop's own data: ``tune``."""

from __future__ import annotations

import os
from pathlib import Path

import click

from hiersrec_sdk.cli.common import INTEGER, NUMBER, PATH, import_extra
from hiersrec_sdk.errors import InvalidOptionError


@click.command()
@click.argument("data", type=PATH)
@click.option("--out", required=True, type=PATH, help="Folder of the study.")
@click.option(
    "--trials",
    type=INTEGER,
    default=30,
    show_default=True,
    help="Trials of the search; the first one has the defaults.",
)
@click.option(
    "--hours",
    type=NUMBER,
    default=2.0,
    show_default=True,
    help="Hours that this call may take: 60 % for the search, the rest for the finals. A training that runs at their "
    "end ends with its epoch.",
)
@click.option(
    "--parallel",
    type=INTEGER,
    default=1,
    show_default=True,
    metavar="N",
    help="Trainings at once, in processes that share the processors. Each needs the memory of a training.",
)
@click.option(
    "--sessions",
    type=INTEGER,
    help="Newest training sessions that the search trains on; the finals train on all.  [default: 40000]",
)
@click.option(
    "--best",
    type=INTEGER,
    default=3,
    show_default=True,
    metavar="N",
    help="Trials that the finals compare with the defaults.",
)
@click.option(
    "--seeds",
    type=INTEGER,
    default=2,
    show_default=True,
    help="Trainings of each finalist, with seeds that the search has not seen.",
)
@click.option(
    "--config",
    "config_file",
    type=PATH,
    help="TOML file of settings that are fixed: they are not searched, and hold for every training.",
)
@click.option(
    "--set", "assignments", multiple=True, metavar="NAME=VALUE", help="One fixed setting; repeatable."
)
@click.option("--seed", type=INTEGER, help="Of the search.  [default: 0]")
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Device to train on.  [default: auto]"
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with the study in OUT, with its data, sessions, settings, seed and device; the other options may be "
    "others than before.",
)
def tune(
    data: Path,
    out: Path,
    trials: int,
    hours: float,
    parallel: int,
    sessions: int | None,
    best: int,
    seeds: int,
    config_file: Path | None,
    assignments: tuple[str, ...],
    seed: int | None,
    device: str | None,
    resume: bool,
) -> None:
    """Look for training settings that suit the dataset folder DATA, and write a study folder.

    The search trains on the newest sessions. It varies epochs, dropout, temperature, age_decay, learning_rate and
    batch_sessions, but for those that are fixed, and gives up a trial that is below the median of the others at the
    same share of its epochs. Then the best trials and the defaults are trained on all training sessions, with other
    seeds. All are compared by MRR@20 on the validation split; the test split has no part in it.

    At the end OUT holds best.toml, for hiersrec train --config, and report.md with tables, their noise, a picture of
    what mattered, and the commands for a final run. OUT/runs holds the trained runs.

    Ctrl-C keeps the trials that are over, and a checkpoint of a run of the finals; --resume goes on from there, also
    after the end, with more --trials.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as of hiersrec train
    settings = import_extra("hiersrec_training.config", "tune").read_settings(config_file, assignments)
    if resume and (settings or seed is not None or sessions is not None or device is not None):
        raise InvalidOptionError(
            "--resume keeps the settings, seed, sessions and device of the study: leave those options out"
        )
    its_seed = settings.pop("seed", 0) if seed is None else seed
    import_extra("hiersrec_training.tuning.tune", "tune", "tune").tune(
        data,
        out,
        trials=trials,
        hours=hours,
        parallel=parallel,
        sessions=40_000 if sessions is None else sessions,
        best=best,
        seeds=seeds,
        fixed=settings,
        seed=its_seed,
        device=device or "auto",
        resume=resume,
        report=click.echo,
    )
