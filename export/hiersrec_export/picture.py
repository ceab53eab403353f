"""The picture of the model card: rows scored against what is kept of Recall and MRR."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from hiersrec_export.model_card import chosen_of, kept

_LOWEST = 90.0  # per cent kept: budgets below are of no use, and would flatten the others


def budget_picture(budgets: dict[str, Any], items: int) -> bytes:
    """PNG of the curve in ``config["calibration"]``, of a catalogue of ``items``."""
    figure = Figure(figsize=(8, 4.8), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)  # draws without a screen
    axes = figure.add_subplot()
    shown: list[float] = []
    for label, key, color in (
        ("fixed share", "shares", "tab:gray"),
        ("top_p", "top_ps", "tab:blue"),
    ):
        x = [100 * entry["rows"] / items for entry in budgets[key]]
        for index, (metric, line) in enumerate((("Recall@20", "-"), ("MRR@20", "--"))):
            y = [100 * kept(entry, budgets)[index] for entry in budgets[key]]
            axes.plot(x, y, line, color=color, marker="o", markersize=3.5, label=f"{label}, {metric}")
            shown += y
    axes.axhline(100, color="black", linewidth=0.8)
    axes.axhline(100 * budgets["kept"], color="tab:red", linewidth=0.8, linestyle=":")
    axes.annotate(
        f"{100 * budgets['kept']:g} %",
        (1, 100 * budgets["kept"]),
        xycoords=("axes fraction", "data"),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        color="tab:red",
    )
    chosen = chosen_of(budgets)
    x_chosen = 100 * chosen["rows"] / items
    axes.plot(
        [x_chosen, x_chosen],
        [100 * share for share in kept(chosen, budgets)],
        linestyle="none",
        marker="o",
        markersize=11,
        markerfacecolor="none",
        markeredgecolor="tab:red",
        markeredgewidth=1.5,
        label=f'"auto": top_p {budgets["top_p"]:g}, {x_chosen:.2g} % of the rows',
    )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    low, high = max(min(*shown, 100 * budgets["kept"]), _LOWEST), max(*shown, 100.0)
    margin = 0.07 * (high - low)
    axes.set_ylim(low - margin, high + margin)
    axes.set_xlabel("rows scored, mean, % of the catalogue")
    axes.set_ylabel("kept of the exact mode, %")
    seen = "trained on, which flatters it" if budgets["trained_on"] else "not trained on"
    axes.set_title(f"Budgets of candidates: {budgets['cases']:,} validation cases, {seen}", fontsize=11)
    axes.grid(alpha=0.3, which="both", linewidth=0.5)
    axes.legend(fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
