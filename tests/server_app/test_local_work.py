"""What a strategy is told of a client's work in a round, by numbers counted by hand."""

from __future__ import annotations

from typing import Any

import pytest

from fl2ora.experiment.config import RunConfig
from fl2ora.messages.hello import NodeInfo
from fl2ora.server_app.local_work import local_work
from fl2ora.strategies.base import LocalWork

INFOS = {"a": NodeInfo("a", num_train=50), "b": NodeInfo("b", num_train=3)}


def work(client: str, server_round: int, **settings: Any) -> LocalWork:
    config = RunConfig(**{"batch_size": 8, "learning_rate": 0.2, "num_rounds": 10, **settings})
    return local_work(config, INFOS)(client, server_round)


@pytest.mark.parametrize(
    ("client", "settings", "steps"),
    [
        ("a", {}, 7),  # 6 batches of 8, one of 2
        ("a", {"local_epochs": 3}, 21),
        ("a", {"accumulate": 2, "local_epochs": 3}, 12),  # 3 steps of 16 images, one of 2
        ("a", {"batch_size": 50}, 1),
        ("b", {"local_epochs": 2}, 2),
    ],
)
def test_steps_of_a_round(client: str, settings: dict[str, Any], steps: int) -> None:
    assert work(client, 1, **settings).steps == steps


def test_the_learning_rate_is_that_of_the_rounds_first_step() -> None:
    step = {"schedule": "step(every=2, factor=0.5)"}
    rates = [work("a", number, **step).learning_rate for number in (1, 2, 3, 5)]
    assert rates == pytest.approx([0.2, 0.2, 0.1, 0.05])
    cosine = [work("a", number, schedule="cosine(per='round')") for number in (1, 6)]
    assert cosine[0].learning_rate == pytest.approx(0.2)
    assert cosine[1].learning_rate == pytest.approx(0.1)  # half way


@pytest.mark.parametrize(
    ("optimiser", "momentum"), [("sgd(momentum=0.7)", 0.7), ("sgd(momentum=0.0)", 0), ("adamw", 0)]
)
def test_the_momentum_is_the_optimisers(optimiser: str, momentum: float) -> None:
    assert work("a", 1, optimiser=optimiser).momentum == momentum
