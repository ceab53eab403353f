from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from hiersrec_training.config import Config
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.model import HierSRec, Shape
from hiersrec_training.optimizer import Adam


def a_model(data: Path, config: Config, sampled: bool) -> HierSRec:
    torch.manual_seed(0)
    config = Config.from_dict(config.as_dict() | {"sampled_above": 0 if sampled else 1000})
    return HierSRec(Shape.of(Dataset.load(data), config), config)


def steps(model: HierSRec, optimizer: Adam, items: list[Tensor], first: int = 0) -> None:
    assert model.items.item is not None
    for number, some in enumerate(items, start=first):
        optimizer.zero_grad()
        vectors = model.items.item(some) + model.items.category[0](torch.tensor([0]))
        (vectors**2).sum().backward()
        optimizer.step(0.1 / (1 + number))


def test_sparse_and_dense_gradients_of_every_row_give_the_same(tiny_data: Path, tiny_config: Config) -> None:
    models = [a_model(tiny_data, tiny_config, sampled) for sampled in (False, True)]
    for model in models:
        steps(model, Adam(model), [torch.arange(48)] * 4)
    for name, wanted in models[0].state_dict().items():
        # after steps of 0.1; the two add epsilon at different places
        torch.testing.assert_close(models[1].state_dict()[name], wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("sampled", [False, True])
def test_an_optimizer_goes_on_from_its_state(tiny_data: Path, tiny_config: Config, sampled: bool) -> None:
    items = [torch.tensor([1, 2, 2]), torch.tensor([2, 7]), torch.tensor([1, 9])]
    whole, broken = (a_model(tiny_data, tiny_config, sampled) for _ in range(2))
    steps(whole, Adam(whole), [*items, *items])
    before, after = Adam(broken), Adam(broken)
    steps(broken, before, items)
    after.load({name: value.clone() for name, value in before.state().items()})
    assert before.state().keys() == after.state().keys()
    steps(broken, after, items, first=len(items))
    for name, wanted in whole.state_dict().items():
        assert torch.equal(broken.state_dict()[name], wanted)


def test_a_state_of_another_model_is_refused(tiny_data: Path, tiny_config: Config) -> None:
    optimizer = Adam(a_model(tiny_data, tiny_config, sampled=False))
    for key in ("1000.step", "weight.step"):
        with pytest.raises(ValueError, match="no parameter"):
            optimizer.load({key: torch.ones(())})
