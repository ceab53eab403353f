"""What the Hugging Face Hub reads of a model card: the YAML above its text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from hiersrec_sdk.errors import InvalidOptionError
from hiersrec_sdk.shown import printable, shown

# The Hub has no pipeline tag for recommendation, so there is none here.
_TAGS: Final = (
    "recommendation",
    "session-based-recommendation",
    "sequential-recommendation",
    "next-item-prediction",
    "hiersrec",
    "onnx",
    "arxiv:2309.06533",
)
_LICENSE: Final = re.compile(r"[a-z0-9][a-z0-9.+-]*", re.ASCII)
_DATASET: Final = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)


@dataclass(frozen=True)
class HubMetadata:
    """What the user says about a model.

    >>> HubMetadata("apache-2.0", ("org/clicks",)).license
    'apache-2.0'

    Attributes:
        license: as the Hub writes it, such as "apache-2.0" or "other"; None: not said.
        datasets: names of the Hub's data sets that the log is from.

    Raises:
        InvalidOptionError: neither can be what it should be.
    """

    license: str | None = None
    datasets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.license is not None and not _LICENSE.fullmatch(self.license):
            raise InvalidOptionError(
                "license must be an identifier of the Hub in small letters, such as 'apache-2.0' or 'other', got "
                f"{shown(self.license)}"
            )
        for dataset in self.datasets:
            if not _DATASET.fullmatch(dataset):
                raise InvalidOptionError(
                    f"dataset must be the name of one on the Hub, such as 'org/name', got {shown(dataset)}"
                )


def front_matter(name: str, config: dict[str, Any], metadata: HubMetadata, held_out: bool) -> str:
    """The YAML of a bundle's model card between its lines ``---``.

    Args:
        name: of the model.
        config: the content of the bundle's ``config.json``.
        metadata: what the user says.
        held_out: whether the model was not trained on the validation split, so that its metrics count.
    """
    about: dict[str, Any] = {"library_name": "hiersrec-sdk", "tags": list(_TAGS)}
    if metadata.license is not None:
        about["license"] = metadata.license
    if metadata.datasets:
        about["datasets"] = list(metadata.datasets)
    results = list(_results(config, metadata)) if held_out else []
    if results:
        about["model-index"] = [{"name": printable(name), "results": results}]
    # JSON is YAML; one key a line is what people edit
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in about.items()]
    return "\n".join(["---", *lines, "---", "", ""])


def _results(config: dict[str, Any], metadata: HubMetadata) -> Iterator[dict[str, Any]]:
    """The metrics of the validation split: of the session encoder, and of the whole model on the newer half."""
    logs = printable(", ".join(config["data"]["logs"])) or "click log"
    measured = {
        "validation split, session encoder alone": config["metrics"]["validation"],
        "newer half of the validation split": config["metrics"]["validation_with_covisitation"],
    }
    for split, metrics in measured.items():
        if not metrics:
            continue
        yield {
            "task": {"type": "session-based-recommendation", "name": "Next-item recommendation"},
            "dataset": {
                "type": metadata.datasets[0] if metadata.datasets else "click-log",
                "name": logs,
                "split": split,
            },
            # as many digits as in the card's table: YAML takes the exponent of a smaller number for text
            "metrics": [
                {
                    "type": metric,
                    "name": metric.replace("recall", "Recall").replace("mrr", "MRR"),
                    "value": round(value, 4),
                }
                for metric, value in metrics.items()
            ],
        }
