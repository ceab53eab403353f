"""A training that dies."""

from __future__ import annotations

from typing import Any

import pytest

from hiersrec_training.loop import Loop


def dies_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At that step, as by Ctrl-C."""
    original = Loop._step

    def dies(self: Any, batch: Any) -> Any:
        if self.state["step"] == step:
            raise KeyboardInterrupt
        return original(self, batch)

    monkeypatch.setattr(Loop, "_step", dies)
