"""``curves.png`` in the run folder: losses and validation metrics by step."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hiersrec_sdk.atomic import write_file
from hiersrec_training.trackers import Line, read_lines

NAME: Final = "curves.png"
_METRICS: Final = {"recall@20": "Recall@20", "mrr@20": "MRR@20"}  # of the validation split, a panel each


def draw(folder: Path) -> None:
    """Draw what ``metrics.jsonl`` in ``folder`` holds; nothing where it holds nothing."""
    if lines := read_lines(folder / "metrics.jsonl"):
        write_file(folder / NAME, picture(lines))


def picture(lines: Sequence[Line]) -> bytes:
    """PNG: the losses on the left; then, if there was a validation, its metrics, with a line at the best epoch."""
    # imported here: it takes a second, which processes that only train do not need
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    losses = [line for line in lines if "validation" not in line]
    validations = [line for line in lines if "validation" in line]
    panels = 1 + len(_METRICS) * bool(validations)
    width, height = 4.2 * panels, 4.0
    figure = Figure(figsize=(width, height), dpi=100)
    # margins in inches; a layout that finds them itself draws everything twice
    figure.subplots_adjust(0.6 / width, 0.5 / height, 1 - 0.2 / width, 1 - 0.35 / height, wspace=0.22)
    FigureCanvasAgg(figure)  # draws without a screen
    every = [figure.add_subplot(1, panels, place + 1) for place in range(panels)]
    for name in dict.fromkeys(name for line in losses for name in line if name not in ("step", "epoch")):
        some = [line for line in losses if name in line]
        steps, values = [line["step"] for line in some], [line[name] for line in some]
        every[0].plot(steps, values, marker="." if len(some) == 1 else "", label=name.replace("_", " "))
    every[0].set_ylim(bottom=0)
    every[0].set_title("losses", fontsize=10)
    best = max(validations, key=lambda line: float(line["validation"]["mrr@20"]), default=None)
    for axes, (name, label) in zip(every[1:], _METRICS.items(), strict=bool(validations)):
        values = [line["validation"][name] for line in validations]
        axes.plot([line["step"] for line in validations], values, marker="o", color="tab:red")
        axes.set_title(f"{label}, validation split", fontsize=10)
        if best is not None:
            axes.axvline(best["step"], color="black", linewidth=0.8, linestyle=":")
            axes.annotate(
                f" epoch {best['epoch']}",
                (best["step"], 0),
                (0, 4),
                ("data", "axes fraction"),
                "offset points",
                ha="right",
                fontsize=8,
            )
    for axes in every:
        axes.set_xlim(left=0)
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_xlabel("step")
        axes.grid(alpha=0.3, linewidth=0.5)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()
