"""Every tuning method goes through a round: no reply is dropped, and what is sent changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.experiment.plugins import available
from runs import events, final_adapter, run_small

NEEDS_A_STRATEGY = {"lora_residual": "fedex_lora"}


@pytest.mark.parametrize("method", available(TuningMethod))
def test_a_round_of_every_method(tmp_path: Path, method: str) -> None:
    folder = run_small(
        tmp_path,
        clients=2,
        dataset="shapes(styles='held-back', train=32, validation=16, test=16)",
        strategy=NEEDS_A_STRATEGY.get(method, "fedavg"),
        method=method,
        num_rounds=1,
        learning_rate=0.01,
    )
    assert not events(folder, "drop")
    assert len(events(folder, "client")) == 2
    assert len(events(folder, "finished")) == 1
    assert bool(final_adapter(folder)) == (method != "zero_shot")
