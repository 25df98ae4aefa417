from __future__ import annotations

import pytest
import torch

from fl2ora.strategies.averaging.fedavg import FedAvg
from fl2ora.strategies.updates import ClientUpdate
from planned import combine, plan_of


def update(client: str, value: float, examples: int) -> ClientUpdate:
    return ClientUpdate(client, {"w": torch.full((2, 2), value)}, examples)


def test_weights_are_the_numbers_of_examples() -> None:
    # (1*10 + 4*30) / 40
    result = combine(FedAvg(), {}, [update("a", 1.0, 10), update("b", 4.0, 30)])
    assert torch.equal(result["w"], torch.full((2, 2), 3.25))


def test_uniform_weighting_ignores_the_numbers_of_examples() -> None:
    result = combine(FedAvg(weighting="uniform"), {}, [update("a", 1.0, 10), update("b", 4.0, 30)])
    assert torch.equal(result["w"], torch.full((2, 2), 2.5))


def test_fedavg_of_one_client_is_its_adapter_bit_for_bit() -> None:
    torch.manual_seed(0)
    adapter = {"w": torch.randn(50)}
    result = combine(FedAvg(), {}, [ClientUpdate("a", adapter, 7)])
    assert torch.equal(result["w"], adapter["w"])


def test_updates_are_taken_one_at_a_time() -> None:
    alive = []

    def stream():
        for index in range(5):
            alive.append(index)
            yield update(str(index), float(index), 1)

    assert float(FedAvg().aggregate(plan_of([], {}), stream())["w"][0, 0]) == 2.0
    assert alive == [0, 1, 2, 3, 4]


def test_unknown_weighting_is_refused() -> None:
    with pytest.raises(ValueError, match="'examples' or 'uniform', found 'sizes'"):
        FedAvg(weighting="sizes")
