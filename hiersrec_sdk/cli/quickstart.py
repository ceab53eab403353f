"""The command ``quickstart``: the other commands in order, from a simulated shop to the page of ``hiersrec serve``."""

from __future__ import annotations

import csv
import shlex
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from hiersrec_sdk.cli.browser import has_display
from hiersrec_sdk.cli.common import INTEGER, PATH
from hiersrec_sdk.cli.data import prepare, simulate
from hiersrec_sdk.cli.extras import lacking
from hiersrec_sdk.cli.serve import serve
from hiersrec_sdk.cli.serving import recommend
from hiersrec_sdk.cli.training import export, train
from hiersrec_sdk.errors import InterruptedRunError, InvalidOptionError, MissingExtraError

_FOLDER: Final = "hiersrec-quickstart"
_PORT: Final = 8080
_SHOP: tuple[str, ...] = ()  # sizes: the defaults
_SETTINGS: tuple[str, ...] = ("--set", "epochs=4")  # later ones gain little on this shop
_COLUMNS: Final = (
    *("--event-column", "event", "--event", "view"),
    *("--category-column", "department", "--category-column", "category", "--category-column", "subcategory"),
    *("--title-column", "name", "--text-column", "name", "--number-column", "price"),
)
_INTERRUPTED: Final = "run.part"  # as hiersrec train calls it
_LENGTH: Final = 3  # fewest clicks of the session that is answered


@dataclass(frozen=True)
class _Step:
    """One command of the path, and the folder that it makes."""

    title: str
    command: click.Command
    arguments: tuple[str | Path, ...]
    makes: Path

    def run(self, number: int, steps: int) -> None:
        """Run the command, unless its folder is there: each appears when it is finished."""
        heading = f"[{number}/{steps}] {self.title}"
        if self.makes.exists():
            click.echo(f"\n{heading}: {self.makes} is there already")
            return
        click.secho(f"\n{heading}", bold=True)
        began = time.monotonic()
        _run(self.command, *self.arguments)
        click.echo(f"took {time.monotonic() - began:.0f} s")


@click.command()
@click.option(
    "--out",
    type=PATH,
    default=_FOLDER,
    show_default=True,
    help="Folder to write: shop, data, run and bundle in it.",
)
@click.option(
    "--serve/--no-serve", "serving", default=True, show_default=True, help="Serve the page at the end."
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address of the page; 0.0.0.0: all of this machine.",
)
@click.option(
    "--port", type=INTEGER, help=f"Port of the page; 0: any free one.  [default: {_PORT}, or any free one]"
)
@click.option(
    "--browser/--no-browser",
    default=None,
    help="Open the page in a web browser.  [default: where there is a display]",
)
def quickstart(out: Path, serving: bool, host: str, port: int | None, browser: bool | None) -> None:
    """Go from a SIMULATED shop to recommendations on a page in the browser, in a few minutes.

    It runs the commands that you would run with a click log of your own, and prints each: simulate, prepare, train,
    export, recommend, serve. Nothing is downloaded. Run it again to go on where it was stopped; what is finished is
    kept. It needs the extras cpu, train and serve.
    """
    _check_extras(("cpu", "train", "serve") if serving else ("cpu", "train"))
    _check_folder(out)
    if serving:
        port = _checked_port(host, port)
    click.echo(
        "SIMULATED data: a made-up shop with made-up sessions. It shows how things work, not how good they are for you."
    )
    began = time.monotonic()
    steps = _steps(out)
    try:
        for number, step in enumerate(steps, 1):
            step.run(number, len(steps))
    except InterruptedRunError as error:
        again = shlex.join(["hiersrec", "quickstart", "--out", str(out)])
        raise InterruptedRunError(f"stopped while training: run {again} again to go on from there") from error
    bundle = out / "bundle"
    click.secho("\nWhat comes after a session of the test split, which the model has not seen?", bold=True)
    _run(recommend, bundle, *_session(out / "shop/simulated-events.csv"))
    click.echo(
        f"\nThe bundle is {bundle}, after {time.monotonic() - began:.0f} s. From Python:\n\n"
        "    from hiersrec_sdk import Recommender\n\n"
        f"    recommender = Recommender.load({str(bundle)!r})\n"
        '    recommender.recommend(["sku-00017", "sku-00040"])\n\n'
        "With a click log of your own, run the same commands: hiersrec prepare --help has the options for its columns."
    )
    if serving:
        shown = has_display() if browser is None else browser
        click.secho("\nThe page; Ctrl-C stops it", bold=True)
        _run(
            serve,
            bundle,
            "--host",
            host,
            "--port",
            str(port),
            "--page",
            "--browser" if shown else "--no-browser",
        )


def _steps(out: Path) -> tuple[_Step, ...]:
    shop, data, run, bundle = (out / name for name in ("shop", "data", "run", "bundle"))
    log, items = shop / "simulated-events.csv", shop / "simulated-items.csv"
    # the settings of an interrupted run are its own
    settings = ("--resume",) if (out / _INTERRUPTED).exists() else _SETTINGS
    return (
        _Step("Simulate a shop", simulate, ("--out", shop, *_SHOP), shop),
        _Step(
            "Prepare a dataset",
            prepare,
            (log, "--items", items, *_COLUMNS, "--test-days", "3", "--out", data),
            data,
        ),
        _Step("Train a model", train, (data, "--out", run, *settings), run),
        _Step("Export a bundle", export, (run, "--out", bundle, "--name", "SIMULATED shop"), bundle),
    )


def _run(command: click.Command, *arguments: str | Path) -> None:
    """Print the command as a user would type it, and run it."""
    words = [str(argument) for argument in arguments]
    click.echo(f"$ {shlex.join(['hiersrec', str(command.name), *words])}")
    command.main(words, f"hiersrec {command.name}", standalone_mode=False)


def _check_extras(extras: tuple[str, ...]) -> None:
    """Raise :class:`MissingExtraError` now, not after minutes."""
    missing = lacking(extras)
    if missing:
        names = ", ".join(name for names in missing.values() for name in names)
        raise MissingExtraError(",".join(missing), "hiersrec quickstart", names)


def _check_folder(out: Path) -> None:
    """Raise :class:`InvalidOptionError` where ``out`` holds somebody's own data, which would pass for the shop's."""
    if out.exists() and not out.is_dir():
        raise InvalidOptionError(f"--out {out} is not a folder")
    if (out / "shop/simulated-events.csv").is_file():
        return
    found = [name for name in ("shop", "data", "run", _INTERRUPTED, "bundle") if (out / name).exists()]
    if found:
        raise InvalidOptionError(
            f"{out} has {', '.join(found)}, but no shop/simulated-events.csv: it is not of hiersrec quickstart; "
            "choose another folder with --out"
        )


def _checked_port(host: str, port: int | None) -> int:
    """``port``, or a default that is free. A wrong one is an error now, not after minutes."""
    if port is None:
        if _refusal(host, _PORT) is None:
            return _PORT
        port = 0
    if not 0 <= port < 1 << 16:
        raise InvalidOptionError(f"--port must be an integer from 0 to 65535, got {port}")
    refusal = _refusal(host, port)
    if refusal is not None:
        raise InvalidOptionError(
            f"--host {host}{f' --port {port}' if port else ''} cannot be used: {refusal}"
        )
    return port


def _refusal(host: str, port: int) -> str | None:
    """Why nothing can listen there; None: it can."""
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            return None
    except OSError as error:
        return error.strerror or str(error)


def _session(log: Path) -> list[str]:
    """The views of one of the newest sessions of a simulated log."""
    sessions: dict[str, list[str]] = {}
    for session, item in _views(log):
        sessions.setdefault(session, []).append(item)
    return next((items for items in reversed(sessions.values()) if len(items) >= _LENGTH), [])


def _views(log: Path) -> Iterator[tuple[str, str]]:
    with log.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["event"] == "view":
                yield row["session"], row["item"]
