"""What a study leaves: a page with its table, and its picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator


@dataclass(frozen=True)
class Line:
    """A line of a picture."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    color: str
    dashes: str = "-"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the first column is text, the others are figures."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def lines_picture(lines: Sequence[Line], *, x: str, y: str, title: str, log: bool = False) -> bytes:
    """PNG of ``lines``; ``log``: the x axis is logarithmic."""
    figure = Figure(figsize=(10, 4.8), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)  # draws without a screen
    axes = figure.add_subplot()
    for line in lines:
        axes.plot(line.x, line.y, line.dashes, color=line.color, marker="o", markersize=3.5, label=line.label)
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.get_major_formatter().set_useOffset(False)  # type: ignore[attr-defined]
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.3, which="both", linewidth=0.5)
    figure.legend(loc="outside right upper", fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def write_page(out: Path, name: str, title: str, text: str, tables: str, picture: bytes) -> None:
    """Write ``<name>.png``, then ``<name>.md`` that shows it, and print the tables."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.png").write_bytes(picture)
    command = f"    python -m benchmarks.studies.{name} BUNDLE DATA --out {out}"
    parts = [f"# {title}", command, text, tables, f"![{title}]({name}.png)"]
    (out / f"{name}.md").write_text("\n\n".join(parts) + "\n")
    click.echo(tables)
    click.echo(f"written to {out / name}.md and {out / name}.png")
