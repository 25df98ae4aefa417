"""Which clients take part in a round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from fl2ora.experiment.seeds import derive_seed

T = TypeVar("T")


def sample(
    items: Sequence[T], fraction: float, minimum: int, seed: int, server_round: int
) -> list[T]:
    """Draw ``max(minimum, round(fraction * n))`` of the n items, in their order.

    The draw depends on nothing but the arguments, so a run's participants are the same on any
    engine, whatever node ids Flower hands out.
    """
    size = min(len(items), max(minimum, round(fraction * len(items)), 1))
    rng = np.random.default_rng(derive_seed(seed, "sampling", server_round))
    chosen = rng.choice(len(items), size=size, replace=False)
    return [items[index] for index in sorted(chosen)]
