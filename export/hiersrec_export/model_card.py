"""The model card of a bundle: its README.md, and the picture in it."""

from __future__ import annotations

import io
import json
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from hiersrec_export.hub_metadata import HubMetadata, front_matter
from hiersrec_training.run import RunInfo

_LOWEST = 90.0  # per cent kept: budgets below are of no use, and would flatten the others


def model_card(name: str, info: RunInfo, config: dict[str, Any], metadata: HubMetadata | None = None) -> str:
    """The model card of the bundle with this ``config``, exported from the run ``info``: Markdown, below the metadata
    that the Hugging Face Hub reads."""
    sections = [
        _use(name),
        _data(info, config),
        _metrics(info, config),
        *([_calibration(config["calibration"], config["items"])] if "calibration" in config else []),
        ["## Settings", "", "```json", json.dumps(config["model"], indent=2), "```"],
    ]
    text = "\n\n".join("\n".join(section) for section in sections) + "\n"
    return front_matter(name, config, metadata or HubMetadata(), held_out=not info.final) + text


def summary(calibration: dict[str, Any], items: int) -> str:
    """One line about the chosen top_p: its cost and its accuracy."""
    chosen = chosen_of(calibration)
    recall, mrr = kept(chosen, calibration)
    seen = "; the run was trained on them, so the figures flatter it" if calibration["trained_on"] else ""
    return (
        f'candidates="auto": top_p {calibration["top_p"]:g} ranks {_percent(chosen["rows"] / items)} of the '
        f"items and keeps {_percent(recall)} of Recall@20 and {_percent(mrr)} of MRR@20 of the exact mode, on "
        f"{calibration['examples']:,} validation examples{seen}"
    )


def chosen_of(curve: dict[str, Any]) -> dict[str, float]:
    """The entry of the curve's chosen top_p."""
    found: dict[str, float] = next(entry for entry in curve["top_ps"] if entry["top_p"] == curve["top_p"])
    return found


def kept(entry: dict[str, float], calibration: dict[str, Any]) -> tuple[float, float]:
    """Recall@20 and MRR@20 of an entry as shares of the exact ones; 1 where those are 0."""
    exact = calibration["exact"]
    recall, mrr = (entry[name] / exact[name] if exact[name] else 1.0 for name in ("recall@20", "mrr@20"))
    return recall, mrr


def _use(name: str) -> list[str]:
    return [
        f"# {name}",
        "",
        "A next-item recommender for sessions: HierSRec (arXiv 2309.06533), exported by HierSRec SDK.",
        "",
        "```python",
        "from hiersrec_sdk import Recommender",
        "",
        'recommender = Recommender.load("path/of/this/folder")  # or from_pretrained("org/name"), of the Hub',
        "result = recommender.recommend([...], k=20)  # ids of the items clicked so far, the newest last",
        "```",
    ]


def _data(info: RunInfo, config: dict[str, Any]) -> list[str]:
    counts = info.data["counts"]
    given = []
    if vectors := config["preprocessing"]["vectors"]:
        source = "a file of the shop" if vectors["from"] == "file" else f"their text by `{vectors['from']}`"
        given = [
            f"Items have vectors of width {vectors['width']}, from {source}. An item added later, by "
            "`item_encoder.onnx`, needs one too, or zeros."
        ]
    return [
        "## Data",
        "",
        f"From {', '.join(config['data']['logs']) or 'logs that were not noted'}: {counts['items']:,} items in "
        f"{' > '.join(f'{size:,}' for size in config['categories'])} categories; "
        f"{counts['train_sessions']:,} training, {counts['validation_sessions']:,} validation and "
        f"{counts['test_sessions']:,} test sessions "
        f"({counts['train_examples']:,}, {counts['validation_examples']:,} and {counts['test_examples']:,} examples).",
        f"Trained on the {config['metrics']['trained_on']}, {info.best_epoch} epochs, {info.seconds:,.0f} seconds "
        f"on {info.device}. The bundle holds no sessions. It holds counts: the clicks of each item, and how often two "
        "items were clicked near each other, down to once.",
        *given,
    ]


def _metrics(info: RunInfo, config: dict[str, Any]) -> list[str]:
    lines = ["## Metrics", ""]
    if not info.final:
        lines += ["On the validation split, every item ranked, ties counted against the model:", ""]
        lines += ["| metric | value |", "|---|---|"]
        lines += [f"| {metric} | {value:.4f} |" for metric, value in info.metrics.items()]
        if info.covisitation_metrics:
            lines[2] = (
                "The encoder alone, on the validation split, every item ranked, ties counted against the model:"
            )
            recall, mrr = info.covisitation_metrics["recall@20"], info.covisitation_metrics["mrr@20"]
            lines += [
                "",
                f"With the co-visitation scorer, on the newer half of it: Recall@20 {recall:.4f}, MRR@20 {mrr:.4f}.",
            ]
    else:
        lines += ["The validation split was trained on; `hiersrec evaluate` measures on the test split."]
    if cold := info.cold_start:
        lines += [
            "",
            f"Items without clicks share a cold-start bias of {cold['bias']:.2f}. It was measured with "
            f"{cold['share']:.0%} of the items treated as cold, placed by metadata alone. Recall@20 was "
            f"{cold['recall@20']:.4f} where the next click was on one of them, and {cold['known_recall@20']:.4f} where "
            f"it was on another item ({cold['known_recall@20_alone']:.4f} if cold items were never shown).",
        ]
    parity = max(config["metrics"]["parity"].values())
    return [*lines, "", f"PyTorch and onnxruntime agree within {parity:.1e} (relative)."]


def _calibration(calibration: dict[str, Any], items: int) -> list[str]:
    about = f"Measured on {calibration['examples']:,} examples of the validation split, "
    if calibration["trained_on"]:
        about += (
            "**which the model was trained on: the curve flatters it.** `hiersrec export --calibrate-with` measures it "
            "with a run that was not."
        )
    else:
        about += f"with the run {calibration['run']}, which was not trained on it."
    with_session = calibration["session_categories"]
    chosen = chosen_of(with_session)
    recall, mrr = kept(chosen, calibration)
    return [
        "## Candidates",
        "",
        about,
        f'`candidates="auto"` takes the categories up to a top_p of {calibration["top_p"]:g}: the smallest that '
        f"keeps {100 * calibration['kept']:g} % of the Recall@20 and of the MRR@20 of the exact mode.",
        "",
        "![rows scored against the share of Recall and MRR that is kept](calibration.png)",
        "",
        "| candidates | rows scored | of all | Recall@20 | kept | MRR@20 | kept | target a candidate |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
        *(
            _row(f"{100 * entry['share']:.3g} %", entry, calibration, items)
            for entry in calibration["shares"]
        ),
        *(_row(_top_p(entry, calibration), entry, calibration, items) for entry in calibration["top_ps"]),
        _row("exact", {**calibration["exact"], "candidate_coverage": 1.0}, calibration, items),
        "",
        "Rows scored are the mean of an example, the items of the session among them. With the categories of the "
        f"session's items always taken (`include_session_categories`), the top_p would be {with_session['top_p']:g}: "
        f"{_percent(chosen['rows'] / items)} of the rows scored, {_percent(recall)} of Recall@20 and {_percent(mrr)} "
        f"of MRR@20 kept, the target a candidate in {_percent(chosen['candidate_coverage'])} of the examples.",
    ]


def _row(label: str, entry: dict[str, float], calibration: dict[str, Any], items: int) -> str:
    recall, mrr = kept(entry, calibration)
    figures = [
        f"{entry['rows']:,.0f}",
        _percent(entry["rows"] / items),
        *(_percent(share) for share in (entry["recall@20"], recall, entry["mrr@20"], mrr)),
        _percent(entry["candidate_coverage"]),
    ]
    return f"| {' | '.join([label, *figures])} |"


def _top_p(entry: dict[str, float], calibration: dict[str, Any]) -> str:
    label = f"top_p {entry['top_p']:g}"
    return f'**{label}, "auto"**' if entry["top_p"] == calibration["top_p"] else label


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def calibration_picture(calibration: dict[str, Any], items: int) -> bytes:
    """PNG of the curve in ``config["calibration"]``, of a catalog of ``items``: rows scored against accuracy kept."""
    figure = Figure(figsize=(8, 4.8), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)  # draws without a screen
    axes = figure.add_subplot()
    shown: list[float] = []
    for label, key, color in (
        ("fixed share", "shares", "tab:gray"),
        ("top_p", "top_ps", "tab:blue"),
    ):
        x = [100 * entry["rows"] / items for entry in calibration[key]]
        for index, (metric, line) in enumerate((("Recall@20", "-"), ("MRR@20", "--"))):
            y = [100 * kept(entry, calibration)[index] for entry in calibration[key]]
            axes.plot(x, y, line, color=color, marker="o", markersize=3.5, label=f"{label}, {metric}")
            shown += y
    axes.axhline(100, color="black", linewidth=0.8)
    axes.axhline(100 * calibration["kept"], color="tab:red", linewidth=0.8, linestyle=":")
    axes.annotate(
        f"{100 * calibration['kept']:g} %",
        (1, 100 * calibration["kept"]),
        xycoords=("axes fraction", "data"),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        color="tab:red",
    )
    chosen = chosen_of(calibration)
    x_chosen = 100 * chosen["rows"] / items
    axes.plot(
        [x_chosen, x_chosen],
        [100 * share for share in kept(chosen, calibration)],
        linestyle="none",
        marker="o",
        markersize=11,
        markerfacecolor="none",
        markeredgecolor="tab:red",
        markeredgewidth=1.5,
        label=f'"auto": top_p {calibration["top_p"]:g}, {x_chosen:.2g} % of the rows',
    )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    low, high = max(min(*shown, 100 * calibration["kept"]), _LOWEST), max(*shown, 100.0)
    margin = 0.07 * (high - low)
    axes.set_ylim(low - margin, high + margin)
    axes.set_xlabel("rows scored, mean, % of the catalog")
    axes.set_ylabel("kept of the exact mode, %")
    seen = "trained on, which flatters it" if calibration["trained_on"] else "not trained on"
    axes.set_title(f"Candidates: {calibration['examples']:,} validation examples, {seen}", fontsize=11)
    axes.grid(alpha=0.3, which="both", linewidth=0.5)
    axes.legend(fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
