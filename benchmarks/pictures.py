"""Pictures of the ranking: ``python -m benchmarks.pictures RUN.json … --out docs``.

    ranking-size.png     time against catalog size
    ranking-recall.png   time against recall, exact and approximate, at one size

The runs are what ``benchmarks.ranking --json`` wrote, one or several for each size.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from benchmarks.peers import OURS, PEERS, READ

Rows = Sequence[dict[str, Any]]
_OURS: Final = (OURS, f"{OURS}-without-codes", f"{OURS}-numba")
_OUR_COLORS: Final = ("crimson", "darkorange", "hotpink")
_COLORS_OF_PEERS: Final = (
    "blue",
    "green",
    "brown",
    "gray",
    "purple",
    "plum",
    "indigo",
    "goldenrod",
    "teal",
    "olive",
)
_COLORS: Final = dict(zip((*_OURS, *PEERS), (*_OUR_COLORS, *_COLORS_OF_PEERS), strict=True))
_APPROXIMATE: Final = ("faiss-rabitq", "faiss-ivf", "faiss-hnsw")
# rank all rows: beside those that rank candidates
_FOR_SCALE: Final = (
    "onnxruntime",
    "faiss-flat",
    "faiss-panorama",
)


class _Point(NamedTuple):
    x: float
    y: float  # milliseconds
    name: str
    color: str


def size_picture(rows: Rows) -> bytes:
    """PNG of time against catalog size. Approximate indexes are left to the other picture."""
    figure, (left, right) = _figure((14, 7), 2)
    sizes = sorted({row["rows"] for row in rows})
    for axes, work, title in (
        (left, "exact", "every row ranked"),
        (right, "candidates", "the candidates ranked: the categories that hold 4 % of the rows"),
    ):
        lines: dict[str, list[_Point]] = {}
        for row in sorted(rows, key=lambda row: int(row["rows"])):
            name = row["by"]
            shown = work == "exact" or row["ranks"] == "candidates" or name in _FOR_SCALE
            if row["work"] == work and shown and _family(name) not in _APPROXIMATE:
                name += ", all rows" if work == "candidates" and name in _FOR_SCALE else ""
                point = _Point(row["rows"], row["median_us"] / 1_000, name, _color(row["by"]))
                lines.setdefault(name, []).append(point)
        for name, points in lines.items():
            style = ":" if name == READ or name.endswith("rows") else "-"
            _line(axes, points, style, 2.5 if name == OURS else 1.3)
        axes.set_xscale("log")
        axes.set_xlim(sizes[0] / 1.3, sizes[-1] ** 1.28 / sizes[0] ** 0.28 * 1.3)  # room for the labels
        axes.set_title(title)
        axes.set_xlabel("rows of the catalog")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1e6:g}M"))
        _label(figure, axes, [points[-1] for points in lines.values()])
    left.set_ylabel("milliseconds a query, one thread, median")
    return _png(figure)


def recall_picture(rows: Rows, size: int) -> bytes:
    """PNG of time against recall of all rows, for the table of ``size`` rows; of the candidates ours alone."""
    figure, (axes,) = _figure((9, 6.5), 1)
    families: dict[str, list[_Point]] = {}
    for row in rows:
        near = row["work"] == "candidates"
        if row["rows"] == size and row["recall_exact"] is not None and row["work"] != "batch":
            if near and row["by"] != OURS:
                continue
            name = row["by"] + (", candidates" if near else "")
            point = _Point(100 * row["recall_exact"], row["median_us"] / 1_000, name, _color(row["by"]))
            families.setdefault(_family(row["by"]), []).append(point)
    for family, points in families.items():
        # ours: two modes, not settings of one
        _line(axes, sorted(points), "o" if family == OURS else "-", 1.2)
    points = [point for some in families.values() for point in some]
    low = min((point.x for point in points), default=99.0)
    axes.set_xlim(low - 0.05 * (100 - low) - 0.1, 100 + 0.35 * (100 - low) + 0.1)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value <= 100 else ""))
    axes.set_xlabel("found of the 20 best of an exact float32 scan, %")
    axes.set_ylabel("milliseconds a query, one thread, median")
    axes.set_title(f"{size:,} rows")
    _label(figure, axes, points)
    return _png(figure)


def _figure(size: tuple[float, float], panels: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    FigureCanvasAgg(figure)  # draws without a screen
    every = figure.subplots(1, panels, sharey=True, squeeze=False)[0].tolist()
    for axes in every:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.grid(alpha=0.3)
    return figure, every


def _line(axes: Axes, points: Sequence[_Point], style: str, width: float) -> None:
    xs, ys = [point.x for point in points], [point.y for point in points]
    (line,) = axes.plot(xs, ys, style, color=points[0].color, linewidth=width, zorder=2 + width)
    line.set(marker="o", markersize=2 + width)


def _label(figure: Figure, axes: Axes, points: Iterable[_Point]) -> None:
    """Write the names to the right of their points, each above what it would overlap."""
    figure.draw_without_rendering()  # now the axes know their limits, and pixels can be told
    high, wide = 9 * figure.dpi / 72, 130 * figure.dpi / 72
    written: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda point: point.y):
        x, y = axes.transData.transform((point.x, point.y))
        place = y
        for other_x, other_y in sorted(written, key=lambda other: other[1]):
            if abs(other_x - x) < wide and abs(other_y - place) < high:
                place = other_y + high
        written.append((x, place))
        offset = (7, (place - y) * 72 / figure.dpi)
        text = axes.annotate(point.name, (point.x, point.y), xytext=offset, textcoords="offset points")
        text.set(va="center", fontsize=8, color=point.color)


def _family(name: str) -> str:
    """What the settings of an approximate index have in common."""
    return next((family for family in _APPROXIMATE if name.startswith(family)), name)


def _color(name: str) -> str:
    family = max((peer for peer in _COLORS if name.startswith(peer)), key=len, default="")
    return _COLORS.get(family, "black")


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


@click.command(help=__doc__)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the pictures.")
@click.option("--at", default=1_000_000, show_default=True, help="Rows of the picture of recall.")
def main(runs: Sequence[Path], out: Path, at: int) -> None:
    rows = [row for file in runs for row in json.loads(file.read_bytes())]
    out.mkdir(parents=True, exist_ok=True)
    for name, picture in (("size", size_picture(rows)), ("recall", recall_picture(rows, at))):
        (out / f"ranking-{name}.png").write_bytes(picture)
        click.echo(out / f"ranking-{name}.png")


if __name__ == "__main__":
    main()
