"""Updates made of LoRA factors, and their products formed densely by numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.strategies.updates import ClientUpdate

M = "vision_model.encoder.layers.0.self_attn.q_proj"
A, B = f"{M}.lora_A.weight", f"{M}.lora_B.weight"
RESIDUAL_A, RESIDUAL_B = f"{M}.residual_A", f"{M}.residual_B"

Dense = NDArray[np.float64]


def pair(b: ArrayLike, a: ArrayLike, module: str = M) -> Adapter:
    """Return one module's factors; vectors stand for rank 1."""
    rows = np.atleast_2d(np.asarray(a, dtype=np.float32))
    columns = np.asarray(b, dtype=np.float32).reshape(-1, len(rows))
    return {
        f"{module}.lora_A.weight": torch.from_numpy(rows.copy()),
        f"{module}.lora_B.weight": torch.from_numpy(columns.copy()),
    }


def updates(adapters: Sequence[Adapter], examples: Sequence[int]) -> list[ClientUpdate]:
    """Return one update of each adapter, from clients 0, 1, ..."""
    return [
        ClientUpdate(str(index), adapter, count)
        for index, (adapter, count) in enumerate(zip(adapters, examples, strict=True))
    ]


def example_one() -> list[ClientUpdate]:
    """Return Ex-E1: two clients of equal size that learned different coordinates."""
    return updates([pair((1, 0), (1, 0)), pair((0, 1), (0, 1))], [10, 10])


def example_two() -> list[ClientUpdate]:
    """Return Ex-E2: two clients of rank 1, weights 1/4 and 3/4."""
    return updates([pair((1, 2), (1, 0)), pair((3, -1), (0.5, 2))], [10, 30])


def dense(adapter: Mapping[str, torch.Tensor], module: str = M) -> Dense:
    """Return ``B A`` with what is carried, in float64."""

    def product(left: str, right: str) -> Dense:
        b, a = (adapter[f"{module}.{name}"].double().numpy() for name in (left, right))
        return np.asarray(b @ a)

    total = product("lora_B.weight", "lora_A.weight")
    if f"{module}.residual_A" in adapter:
        total = total + product("residual_B", "residual_A")
    return total


def mean_product(clients: Sequence[ClientUpdate], module: str = M) -> Dense:
    """Return ``sum_k p_k B_k A_k`` in float64."""
    total = sum(client.num_examples for client in clients)
    terms = [client.num_examples / total * dense(client.adapter, module) for client in clients]
    return np.asarray(sum(terms))


def drawn(
    clients: int = 3,
    rank: int = 2,
    shape: tuple[int, int] = (7, 5),
    seed: int = 0,
    modules: Sequence[str] = (M,),
    same_a: bool = False,
) -> list[ClientUpdate]:
    """Return clients with normal factors of ``(o, i)`` and unequal sizes."""
    rng = np.random.default_rng(seed)
    common = {module: rng.normal(size=(rank, shape[1])) for module in modules}
    adapters: list[Adapter] = []
    for _ in range(clients):
        adapter: Adapter = {}
        for module in modules:
            a = common[module] if same_a else rng.normal(size=(rank, shape[1]))
            adapter |= pair(rng.normal(size=(shape[0], rank)), a, module)
        adapters.append(adapter)
    return updates(adapters, [int(n) for n in rng.integers(1, 50, clients)])
