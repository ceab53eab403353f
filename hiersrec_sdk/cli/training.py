"""Commands that make a model: ``train`` a run on a dataset folder, ``export`` it as a bundle."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path

import click

from hiersrec_sdk.bundle.schema import CONFIG
from hiersrec_sdk.cli.common import INTEGER, PATH, import_extra
from hiersrec_sdk.errors import InvalidOptionError


def _show_config(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    """Print the default settings as TOML, and exit."""
    if not wanted:
        return
    config = import_extra("hiersrec_training.config", "train").Config()
    for name, value in config.as_dict().items():
        click.echo(f"{name} = {json.dumps(value)}")
    context.exit()


@click.command()
@click.argument("data", type=PATH)
@click.option("--out", required=True, type=PATH, help="Run folder to write; called OUT.part until the end.")
@click.option("--config", "config_file", type=PATH, help="TOML file of settings; see --show-config.")
@click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE", help="One setting; repeatable.")
@click.option("--seed", type=INTEGER, help="Short for --set seed=N.")
@click.option(
    "--final", is_flag=True, help="Train on the training and validation splits, without validation."
)
@click.option(
    "--validated-by",
    type=PATH,
    metavar="RUN",
    help="With --final: take over the settings of RUN and what it found on the validation split: its best epoch, its "
    "co-visitation scorer, its bias of items without clicks.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Continue the interrupted run OUT.part, with its settings; --set learning_rate=X may change the learning "
    "rate, and --device the device.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Device to train on; auto: cuda if there is a GPU; with --resume, the device that the run had.",
)
@click.option(
    "--processes",
    type=INTEGER,
    default=1,
    show_default=True,
    help="Processes to start on this machine, which share the sessions of each step; on cuda one for each GPU.",
)
@click.option(
    "--log",
    multiple=True,
    type=click.Choice(["tensorboard", "mlflow", "wandb"]),
    help="What gets the training curves beside metrics.jsonl and curves.png; repeatable. Written into the run folder, "
    "and sent nowhere unless MLFLOW_TRACKING_URI or WANDB_MODE says so.",
)
@click.option("--progress/--no-progress", default=None, help="Show progress bars.  [default: on a terminal]")
@click.option(
    "--show-config",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_config,
    help="Print all settings as TOML, and exit.",
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
    processes: int,
    log: tuple[str, ...],
    progress: bool | None,
) -> None:
    """Train a model on the dataset folder DATA and write a run folder.

    Each epoch ends with a validation; training stops early on MRR@20 and keeps the weights of the best epoch. Ctrl-C
    writes a checkpoint first; --resume continues from it to the same weights as an uninterrupted run.

    Several processes train one model: --processes starts them here, torchrun -m hiersrec_training elsewhere too.
    """
    # threads that wait for each other by spinning make training several times slower beside any other process
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    module = import_extra("hiersrec_training.train", "train")
    names = {assignment.partition("=")[0].strip() for assignment in assignments}
    if resume and (
        config_file or names - {"learning_rate"} or seed is not None or final or validated_by or log
    ):
        raise InvalidOptionError(
            "--resume keeps the settings of the interrupted run, but for --set learning_rate and --device: leave the "
            "others out"
        )
    configs = import_extra("hiersrec_training.config", "train")
    settings = configs.read_settings(
        config_file, [*assignments, *([f"seed={seed}"] if seed is not None else [])]
    )
    if validated_by is not None:
        if "epochs" in names:
            raise InvalidOptionError(
                "--validated-by trains as many epochs as were best in RUN: leave --set epochs out"
            )
        validated = import_extra("hiersrec_training.run", "train").finished_run(validated_by)
        settings = validated.config.as_dict() | settings | {"epochs": validated.best_epoch}
        click.echo(f"epochs: {validated.best_epoch}, the best of {validated_by}")
    config = configs.Config.from_dict(settings)
    module.train(
        data,
        out,
        config,
        final=final,
        validated_by=validated_by,
        device=device,
        processes=processes,
        resume=resume,
        learning_rate=config.learning_rate if resume and assignments else None,
        progress=sys.stderr.isatty() if progress is None else progress,
        report=click.echo,
        log=log,
    )


@click.command()
@click.argument("run", type=PATH, metavar="RUN|BUNDLE")
@click.option("--out", type=PATH, help="Bundle folder to write from a RUN; it must not exist.")
@click.option(
    "--standalone",
    type=PATH,
    metavar="FILE.onnx",
    help="Also write the whole bundle as one ONNX file, from item ids to item ids. It must not exist.",
)
@click.option("--data", type=PATH, help="The run's dataset folder, if it was moved.")
@click.option(
    "--calibrate-with",
    type=PATH,
    metavar="RUN",
    help="For a --final RUN: calibrate the candidates with this run, trained without the validation split.",
)
@click.option("--name", help="Name in the model card.  [default: the run's]")
@click.option(
    "--license",
    "license_id",
    metavar="ID",
    help="License in the model card, as the Hugging Face Hub writes it, e.g. apache-2.0 or other.  [default: none]",
)
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    metavar="ORG/NAME",
    help="Dataset of the Hugging Face Hub that the log is from, for the model card; repeatable.",
)
def export(
    run: Path,
    out: Path | None,
    standalone: Path | None,
    data: Path | None,
    calibrate_with: Path | None,
    name: str | None,
    license_id: str | None,
    datasets: tuple[str, ...],
) -> None:
    """Turn the training RUN into a bundle: ONNX graphs and the catalog, checked against PyTorch.

    Candidates are calibrated on the validation split, for candidates="auto" and the model card. A --final run was
    trained on that split: --calibrate-with names a run on the same data that was not.

    --standalone writes one ONNX file that answers sessions by itself, in C#, Java, Rust, JavaScript or Triton. It
    returns what mode "exact" returns, and that is checked. It is made from the bundle alone, so RUN may also be a
    BUNDLE, then without --out.
    """
    step = partial(click.echo, err=True)
    for path in (out, standalone):
        if path is not None and os.path.lexists(path):
            raise InvalidOptionError(f"{path} exists already; choose another path or remove it")
    is_bundle = (run / CONFIG).is_file()  # a run has a run.json
    if is_bundle and (standalone is None or out or data or calibrate_with or name or license_id or datasets):
        raise InvalidOptionError(
            f"{run} is a bundle: it is exported with --standalone FILE.onnx, and no other option"
        )
    if not is_bundle and out is None:
        raise InvalidOptionError("name the bundle to write: --out BUNDLE")
    if out is not None:
        metadata = import_extra("hiersrec_export.hub_metadata", "export").HubMetadata(license_id, datasets)
        import_extra("hiersrec_export.export", "export").export(
            run,
            out,
            data_path=data,
            calibrate_with=calibrate_with,
            name=name,
            metadata=metadata,
            report=click.echo,
            step=step,
            progress=sys.stderr.isatty(),
        )
        click.echo(f"written to {out}")
    if standalone is not None:
        module = import_extra("hiersrec_export.standalone", "export")
        module.export_standalone(out or run, standalone, report=click.echo, step=step)
        click.echo(f"written to {standalone}")
