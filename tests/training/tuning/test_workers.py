"""Which GPU a process of a study trains on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hiersrec_training.tuning.workers import Workers, choose_gpu


@pytest.mark.parametrize(
    ("device", "wanted"), [("cuda", [0, 1, 2, 0, 1]), ("auto", [0, 1, 2, 0, 1]), ("cpu", [])]
)
def test_processes_take_the_gpus_in_turn(
    device: str, wanted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for number in range(5):
        choose_gpu(device, number)
    assert chosen == wanted


def test_without_gpus_there_is_none_to_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "set_device", pytest.fail)
    for device in ("auto", "cuda", "cpu"):
        choose_gpu(device, 1)


def test_a_new_process_takes_the_number_of_one_that_ended() -> None:
    workers: Any = Workers(3)
    assert workers._free_number() == 0
    workers._idle = [SimpleNamespace(number=0)]
    workers._busy = {None: (SimpleNamespace(number=2), None)}
    assert workers._free_number() == 1
