"""Log files that a test writes, and what ``prepare`` makes of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hiersrec_training.data.dataset import Dataset
from hiersrec_training.data.options import PrepareOptions
from hiersrec_training.data.prepare import prepare

START = 1_706_702_400  # 2024-01-31 12:00:00 UTC


class LogFiles:
    """Writes files in a folder and prepares them; ``report`` holds the lines of the newest prepare report."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.report: list[str] = []

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def csv(self, name: str, rows: Iterable[tuple[Any, ...]], header: str = "session,item,time") -> Path:
        return self.write(name, f"{header}\n" + "".join(",".join(map(str, row)) + "\n" for row in rows))

    def prepare(self, *logs: Any, **options: Any) -> Dataset:
        """Prepare without a validation split, unless told otherwise."""
        self.report = []
        options.setdefault("validation_fraction", 0.0)
        return prepare(PrepareOptions(logs=logs, **options), self.report.append)

    def sessions(self, *logs: Any, **options: Any) -> list[list[Any]]:
        """The training sessions, as ids."""
        data = self.prepare(*logs, **options)
        ids = data.item_ids.to_list()
        return [[ids[item] for item in data.train[index]] for index in range(len(data.train))]

    @property
    def warnings(self) -> list[str]:
        """The lines of the report that warn."""
        return [line for line in self.report if line.startswith("warning")]
