"""The pictures themselves, from the rows of ``benchmarks.ranking``."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

Rows = Sequence[Mapping[str, Any]]

_COLORS: Final = {
    "hiersrec-int8": "tab:red",
    "hiersrec-float32": "tab:orange",
    "hiersrec-numba": "tab:pink",
    "plain-read": "black",
    "onnxruntime": "tab:blue",
    "numpy": "tab:green",
    "numpy-slices": "yellowgreen",
    "torch": "tab:brown",
    "faiss-flat": "tab:purple",
    "faiss-flat-selected": "mediumpurple",
    "faiss-sq8": "plum",
    "faiss-ivf": "tab:cyan",
    "faiss-hnsw": "tab:olive",
    "implicit": "tab:gray",
}
_MAIN: Final = "hiersrec-int8"
_READ: Final = "plain-read"
_FOR_SCALE: Final = ("onnxruntime", "faiss-flat")  # rank all rows: shown beside those that rank candidates


def size_picture(by_size: Mapping[int, Rows]) -> bytes:
    """PNG of time against catalogue size; ``by_size`` holds the rows of each number of rows of the catalogue."""
    figure = Figure(figsize=(14, 7), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)  # draws without a screen
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, work, title in (
        (left, "exact", "every row ranked"),
        (right, "candidates", "the candidates ranked: the categories that hold 4 % of the rows"),
    ):
        lines: dict[str, list[tuple[float, float]]] = {}
        for size, rows in sorted(by_size.items()):
            for row in rows:
                shown = work == "exact" or row["ranks"] == "candidates" or row["by"] in (_READ, *_FOR_SCALE)
                if row["work"] == work and shown:
                    lines.setdefault(row["by"], []).append((size, row["median_us"] / 1_000))
        labels = []
        for name, points in lines.items():
            if len(points) == 1 < len(by_size):
                continue  # measured at one size alone, for the other picture
            all_rows = work == "candidates" and name in _FOR_SCALE
            axes.plot(
                *zip(*points, strict=True),
                color=_color(name),
                linewidth=2.5 if name == _MAIN else 1.3,
                linestyle=":" if name == _READ or all_rows else "-",
                marker="o",
                markersize=5 if name == _MAIN else 3,
                zorder=3 if name == _MAIN else 2,
            )
            labels.append(_Label(*points[-1], f"{name}, all rows" if all_rows else name, _color(name)))
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(min(by_size) / 1.3, max(by_size) ** 1.28 / min(by_size) ** 0.28)  # room for the labels
        axes.set_title(title)
        axes.set_xlabel("rows of the catalogue")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.grid(alpha=0.3)
        _write(figure, axes, labels)
    left.set_ylabel("milliseconds a query, one thread, median")
    return _png(figure)


def recall_picture(rows: Rows, size: int) -> bytes:
    """PNG of time against recall, of one catalogue of ``size`` rows."""
    figure = Figure(figsize=(9, 6.5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    families: dict[str, list[_Label]] = {}
    for row in rows:
        if row["recall_exact"] is None or (row["work"] == "candidates" and row["by"] != _MAIN):
            continue
        name = row["by"] + (", candidates" if row["work"] == "candidates" else "")
        label = _Label(100 * row["recall_exact"], row["median_us"] / 1_000, name, _color(row["by"]))
        families.setdefault(_family(row["by"]), []).append(label)
    for family, labels in families.items():
        recalls, times = zip(*sorted((label.x, label.y) for label in labels), strict=True)
        line = "none" if family == _MAIN else "-"  # two modes, not settings of one
        axes.plot(
            recalls,
            times,
            color=_color(family),
            marker="o",
            linestyle=line,
            linewidth=1.2,
            clip_on=False,
            zorder=3,
        )
    low = min((label.x for labels in families.values() for label in labels), default=99.0)
    axes.set_xlim(low - 0.05 * (100 - low) - 0.1, 100 + 0.35 * (100 - low) + 0.1)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value <= 100 else ""))
    axes.set_xlabel("found of the 20 best of an exact float32 scan, %")
    axes.set_ylabel("milliseconds a query, one thread, median")
    axes.set_title(f"{size:,} rows")
    axes.grid(alpha=0.3)
    _write(figure, axes, [label for labels in families.values() for label in labels])
    return _png(figure)


class _Label(NamedTuple):
    """The name of the point ``x``, ``y``."""

    x: float
    y: float
    text: str
    color: str


def _write(figure: Figure, axes: Axes, labels: Sequence[_Label]) -> None:
    """Write the labels to the right of their points, each above what it would overlap."""
    figure.draw_without_rendering()  # now the axes know their limits, and pixels can be told
    high, wide = 9 * figure.dpi / 72, 130 * figure.dpi / 72
    written: list[tuple[float, float]] = []
    for label in sorted(labels, key=lambda label: label.y):
        x, y = axes.transData.transform((label.x, label.y))
        place = y
        for other_x, other_y in sorted(written, key=lambda other: other[1]):
            if abs(other_x - x) < wide and abs(other_y - place) < high:
                place = other_y + high
        written.append((x, place))
        axes.annotate(
            label.text,
            (label.x, label.y),
            xytext=(7, (place - y) * 72 / figure.dpi),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=label.color,
        )


def _family(name: str) -> str:
    """What the variants of an approximate index have in common."""
    return next((family for family in ("faiss-ivf", "faiss-hnsw") if name.startswith(family)), name)


def _color(name: str) -> str:
    return _COLORS.get(_family(name), "tab:gray")


def _short(value: float) -> str:
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k"


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()
