from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fl2ora.reporting.events import read_lines
from fl2ora.server_app.callbacks.base import RoundReport
from fl2ora.server_app.callbacks.traffic import Traffic
from fl2ora.strategies.base import RoundPlan
from fl2ora.strategies.updates import ClientUpdate
from runs import run_small

LORA = 38_400  # 9,600 values of the embedded model's default LoRA, four bytes each
RESIDUAL = 307_200  # 18 matrices of attention's queries, keys and values


@pytest.mark.parametrize(
    ("settings", "down", "up"),
    [
        ({"strategy": "fedavg"}, LORA, LORA),
        ({"strategy": "scaffold", "optimiser": "sgd(momentum=0)"}, 2 * LORA, LORA + 4),
        ({"strategy": "fednova"}, LORA, LORA + 8),
        ({"strategy": "ffa_lora"}, LORA, LORA // 2),
        ({"strategy": "rolora"}, LORA, LORA // 2),
        ({"strategy": "fedsa_lora(share_b=False)"}, LORA, LORA // 2),
        ({"strategy": "fedsvd"}, LORA, LORA // 2),
        ({"strategy": "fedex_lora", "method": "lora_residual"}, LORA + RESIDUAL, LORA),
    ],
)
def test_every_tensor_that_travels_is_counted(
    tmp_path: Path, settings: dict[str, Any], down: int, up: int
) -> None:
    rows = read_lines(run_small(tmp_path, **settings) / "metrics.jsonl")
    last = [row for row in rows if row["source"] == "training"][-1]
    assert (last["bytes_down"], last["bytes_up"]) == (down, up)


def test_each_round_counts_its_own_replies() -> None:
    traffic, start = Traffic(), {"x": torch.zeros(2)}
    plan = RoundPlan(1, start, ("a",))
    for size in (2, 4):  # float32: 8 and 16 bytes
        traffic.on_update(plan, ClientUpdate("a", {"x": torch.ones(size)}, 1))
        assert traffic.after_training(RoundReport(plan, start)).metrics["bytes_up"] == 4 * size
