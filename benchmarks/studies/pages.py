"""What a study leaves: a page with its table, and its picture."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter


@dataclass(frozen=True)
class Line:
    """A line of a picture."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    color: str
    dashes: str = "-"


@dataclass(frozen=True)
class Panel:
    """Lines over one pair of axes; ``log``: x is logarithmic; ``zero``: y begins at 0."""

    lines: Sequence[Line]
    x: str
    y: str
    log: bool = False
    zero: bool = False


def lines_picture(lines: Sequence[Line], *, x: str, y: str, title: str, log: bool = False) -> bytes:
    """PNG of ``lines``; ``log``: the x axis is logarithmic."""
    return panels_picture([Panel(lines, x, y, log)], title)


def panels_picture(panels: Sequence[Panel], title: str) -> bytes:
    """PNG of ``panels`` side by side. A label of several panels is one in the legend."""
    figure = Figure(figsize=(10, 4.8), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)  # draws without a screen
    named: dict[str, Artist] = {}
    for place, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), place + 1)
        for line in panel.lines:
            [drawn] = axes.plot(line.x, line.y, line.dashes, color=line.color, marker="o", markersize=3.5)
            named.setdefault(line.label, drawn)
        axes.ticklabel_format(axis="y", useOffset=False)
        if panel.log:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
            axes.xaxis.set_minor_formatter(NullFormatter())
        if panel.zero:
            axes.set_ylim(bottom=0)
        axes.set_xlabel(panel.x)
        axes.set_ylabel(panel.y)
        axes.grid(alpha=0.3, which="both", linewidth=0.5)
    figure.suptitle(title, fontsize=11)
    figure.legend(list(named.values()), list(named), loc="outside right upper", fontsize=8)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _short(value: float) -> str:
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k" if value >= 1e4 else f"{value:g}"


Bars = Sequence[tuple[str, Sequence[float]]]
"""A label, and the length of its bar in each series."""


def bars_picture(
    groups: Sequence[tuple[str, Bars]], *, x: str, title: str, series: Sequence[str] = ("",)
) -> bytes:
    """PNG of horizontal bars: ``groups`` with a title each, side by side; ``series`` are told apart by color."""
    tallest = max(len(bars) for _, bars in groups)
    figure = Figure(
        figsize=(4.8 * len(groups) + 1, 1.5 + (0.14 + 0.2 * len(series)) * tallest),
        dpi=110,
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    for place, (name, bars) in enumerate(groups, 1):
        axes = figure.add_subplot(1, len(groups), place)
        labels = [label for label, _ in bars]
        for at, one in enumerate(series):
            thick = 0.8 / len(series)
            values = [each[at] for _, each in bars]
            drawn = axes.barh([row + at * thick for row in range(len(bars))], values, thick, label=one)
            axes.bar_label(drawn, fmt="%.2f", padding=3, fontsize=7)
        axes.set_yticks([row + 0.4 - 0.4 / len(series) for row in range(len(bars))], labels, fontsize=8)
        axes.invert_yaxis()
        axes.margins(x=0.18)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_xlabel(x, fontsize=9)
        axes.set_title(name, fontsize=10)
        if len(series) > 1 and place == 1:
            figure.legend(loc="outside lower center", ncols=len(series), fontsize=8)
    figure.suptitle(title, fontsize=11)
    return _png(figure)


def command_line(name: str, out: Path, **options: Any) -> str:
    """The command of a study with trainings; options that are None or empty are left out, sequences repeated."""
    words = [f"python -m benchmarks.studies.{name} SOURCE --work WORK --out {out}"]
    for option, value in options.items():
        for each in value if isinstance(value, tuple) else (value,):
            words += [] if each is None else [f"--{option.replace('_', '-')} {each}"]
    return " ".join(words)


def write_page(
    out: Path, name: str, command: str, title: str, text: str, tables: str, picture: bytes | None = None
) -> None:
    """Write ``<name>.md`` with the ``command`` and, before it, the picture that it shows; print the tables."""
    out.mkdir(parents=True, exist_ok=True)
    parts = [f"# {title}", textwrap.indent(command, "    "), text, tables]
    written = [f"{out / name}.md"]
    if picture is not None:
        (out / f"{name}.png").write_bytes(picture)
        parts.append(f"![{title}]({name}.png)")
        written.append(f"{out / name}.png")
    (out / f"{name}.md").write_text("\n\n".join(parts) + "\n")
    click.echo(tables)
    click.echo(f"written to {' and '.join(written)}")
