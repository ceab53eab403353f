"""The model card: README.md of a bundle."""

from __future__ import annotations

import json
from typing import Any

from hiersrec_training.run import RunInfo


def card(name: str, info: RunInfo, config: dict[str, Any]) -> str:
    """Markdown of the bundle with this ``config``, exported from the run ``info``."""
    sections = [
        _use(name),
        _data(info, config),
        _metrics(info, config),
        *([_budgets(config["calibration"], config["items"])] if "calibration" in config else []),
        ["## Settings", "", "```json", json.dumps(config["model"], indent=2), "```"],
    ]
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def summary(budgets: dict[str, Any], items: int) -> str:
    """One line: the chosen top_p, what it costs and what it keeps."""
    chosen = chosen_of(budgets)
    recall, mrr = kept(chosen, budgets)
    seen = "; the run was trained on them, so that they flatter it" if budgets["trained_on"] else ""
    return (
        f'candidates="auto": top_p {budgets["top_p"]:g} ranks {_percent(chosen["rows"] / items)} of the '
        f"items and keeps {_percent(recall)} of Recall@20 and {_percent(mrr)} of MRR@20 of the exact mode, on "
        f"{budgets['cases']:,} validation cases{seen}"
    )


def chosen_of(curve: dict[str, Any]) -> dict[str, float]:
    """The entry of the curve's chosen top_p."""
    found: dict[str, float] = next(entry for entry in curve["top_ps"] if entry["top_p"] == curve["top_p"])
    return found


def kept(entry: dict[str, float], budgets: dict[str, Any]) -> tuple[float, float]:
    """Recall@20 and MRR@20 of an entry as shares of the exact ones; 1 where those are 0."""
    exact = budgets["exact"]
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
        'recommender = Recommender.load("path/of/this/folder")',
        "result = recommender.recommend([...], k=20)  # ids of the items clicked so far, the newest last",
        "```",
    ]


def _data(info: RunInfo, config: dict[str, Any]) -> list[str]:
    counts = info.data["counts"]
    given = []
    if vectors := config["preprocessing"]["vectors"]:
        source = "a file of the shop" if vectors["from"] == "file" else f"their text by `{vectors['from']}`"
        given = [
            f"Items have vectors of width {vectors['width']}, from {source}: an item that is added later by "
            "`item_encoder.onnx` brings one too, or zeros."
        ]
    return [
        "## Data",
        "",
        f"From {', '.join(config['data']['logs']) or 'logs that were not noted'}: {counts['items']:,} items in "
        f"{' > '.join(f'{size:,}' for size in config['categories'])} categories; "
        f"{counts['train_sessions']:,} training, {counts['valid_sessions']:,} validation and "
        f"{counts['test_sessions']:,} test sessions "
        f"({counts['train_cases']:,}, {counts['valid_cases']:,} and {counts['test_cases']:,} cases).",
        f"Trained on the {config['metrics']['trained_on']}, {info.best_epoch} epochs, {info.seconds:,.0f} seconds "
        f"on {info.device}. The bundle holds no session, but counts: each item's clicks, and how often two items were "
        "clicked near each other, down to once.",
        *given,
    ]


def _metrics(info: RunInfo, config: dict[str, Any]) -> list[str]:
    lines = ["## Metrics", ""]
    if not info.final:
        lines += ["On the validation part, every item ranked, ties counted against the model:", ""]
        lines += ["| metric | value |", "|---|---|"]
        lines += [f"| {metric} | {value:.4f} |" for metric, value in info.metrics.items()]
        if info.wide_metrics:
            lines[2] = (
                "The encoder alone, on the validation part, every item ranked, ties counted against the model:"
            )
            recall, mrr = info.wide_metrics["recall@20"], info.wide_metrics["mrr@20"]
            lines += [
                "",
                f"With the wide part, on the newer half of it: Recall@20 {recall:.4f}, MRR@20 {mrr:.4f}.",
            ]
    else:
        lines += ["The validation part was trained on; `hiersrec evaluate` measures on the test part."]
    if new := info.new_items:
        lines += [
            "",
            f"Items without a click get a bias of {new['bias']:.2f}. With {new['share']:.0%} of the items standing as "
            f"new, placed by metadata alone, Recall@20 was {new['recall@20']:.4f} where the next click was one of "
            f"them, and {new['known_recall@20']:.4f} where it was another one "
            f"({new['known_recall@20_alone']:.4f} if new ones were never shown).",
        ]
    parity = max(config["metrics"]["parity"].values())
    return [*lines, "", f"PyTorch and onnxruntime agree within {parity:.1e} (relative)."]


def _budgets(budgets: dict[str, Any], items: int) -> list[str]:
    about = f"Measured on {budgets['cases']:,} cases of the validation part, "
    if budgets["trained_on"]:
        about += (
            "**which the model was trained on: the curve flatters it.** `hiersrec export --calibrate-with` measures it "
            "with a run that was not."
        )
    else:
        about += f"with the run {budgets['run']}, which was not trained on it."
    with_own = budgets["session_categories"]
    chosen = chosen_of(with_own)
    recall, mrr = kept(chosen, budgets)
    return [
        "## Budget of candidates",
        "",
        about,
        f'`candidates="auto"` takes the categories up to a top_p of {budgets["top_p"]:g}: the smallest that '
        f"keeps {100 * budgets['kept']:g} % of the Recall@20 and of the MRR@20 of the exact mode.",
        "",
        "![rows scored against the share of Recall and MRR that is kept](calibration.png)",
        "",
        "| candidates | rows scored | of all | Recall@20 | kept | MRR@20 | kept | target among them |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
        *(_row(f"{100 * entry['share']:.3g} %", entry, budgets, items) for entry in budgets["shares"]),
        *(_row(_top_p(entry, budgets), entry, budgets, items) for entry in budgets["top_ps"]),
        _row("exact", {**budgets["exact"], "candidate_coverage": 1.0}, budgets, items),
        "",
        "Rows scored are the mean of a case, the session's own items among them. With the categories of the session's "
        f"own items always taken (`include_session_categories`), the top_p would be {with_own['top_p']:g}, "
        f"{_percent(chosen['rows'] / items)} of the rows scored, {_percent(recall)} of Recall@20 and {_percent(mrr)} "
        f"of MRR@20 kept, the target among them in {_percent(chosen['candidate_coverage'])} of the cases.",
    ]


def _row(label: str, entry: dict[str, float], budgets: dict[str, Any], items: int) -> str:
    recall, mrr = kept(entry, budgets)
    figures = [
        f"{entry['rows']:,.0f}",
        _percent(entry["rows"] / items),
        *(_percent(share) for share in (entry["recall@20"], recall, entry["mrr@20"], mrr)),
        _percent(entry["candidate_coverage"]),
    ]
    return f"| {' | '.join([label, *figures])} |"


def _top_p(entry: dict[str, float], budgets: dict[str, Any]) -> str:
    label = f"top_p {entry['top_p']:g}"
    return f'**{label}, "auto"**' if entry["top_p"] == budgets["top_p"] else label


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
