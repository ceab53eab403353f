"""``curves.png`` in the run folder: losses and validation metrics by step."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hiersrec_sdk.atomic import write_file
from hiersrec_training.trackers import Line, read_lines

NAME: Final = "curves.png"
_METRICS: Final = {"recall@20": "Recall@20", "mrr@20": "MRR@20"}


def draw(folder: Path) -> None:
    """Draw what ``metrics.jsonl`` in ``folder`` holds; nothing where it holds nothing."""
    if lines := read_lines(folder / "metrics.jsonl"):
        write_file(folder / NAME, picture(lines))


def picture(lines: Sequence[Line]) -> bytes:
    """PNG: the losses on the left; on the right, if there was a validation, its metrics and the best epoch."""
    losses = [line for line in lines if "validation" not in line]
    validations = [line for line in lines if "validation" in line]
    panels = 1 + bool(validations)
    figure = Figure(figsize=(5.5 * panels, 4.2), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)  # draws without a screen
    every = [figure.add_subplot(1, panels, place + 1) for place in range(panels)]
    names = dict.fromkeys(name for line in losses for name in line if name not in ("step", "epoch"))
    for name in names:
        some = [line for line in losses if name in line]
        every[0].plot(
            [line["step"] for line in some], [line[name] for line in some], label=name.replace("_", " ")
        )
    every[0].set_title("losses", fontsize=10)
    if validations:
        for name, label in _METRICS.items():
            values = [line["validation"][name] for line in validations]
            every[1].plot([line["step"] for line in validations], values, marker="o", label=label)
        best = max(validations, key=lambda line: float(line["validation"]["mrr@20"]))
        every[1].axvline(best["step"], color="black", linewidth=0.8, linestyle=":")
        every[1].set_title(f"validation; best epoch: {best['epoch']}", fontsize=10)
    for axes in every:
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_xlabel("step")
        axes.grid(alpha=0.3, linewidth=0.5)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()
