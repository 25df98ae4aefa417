"""Runs whose clients send compressed changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fl2ora.clip_tuning.adapter import load_adapter, num_bytes
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import ConfigError, UserError
from fl2ora.reporting.events import read_lines
from fl2ora.server_app.run_plugins import build_plugins
from runs import events, final_adapter, run_small

LORA = 9_600  # values of the embedded model's default LoRA, in 84 matrices


def bytes_up(folder: Path) -> list[float]:
    rows = read_lines(folder / "metrics.jsonl")
    return [row["bytes_up"] for row in rows if row["source"] == "training"]


def test_half_precision_is_as_good_and_half_as_long(tmp_path: Path) -> None:
    plain = run_small(tmp_path / "plain")
    half = run_small(tmp_path / "half", compression="fp16")
    pairs = len(final_adapter(plain))
    assert bytes_up(plain) == [4 * LORA] * 2
    assert bytes_up(half) == [2 * LORA + 4 * pairs] * 2
    assert not events(half, "drop")
    for name, tensor in final_adapter(plain).items():
        found = final_adapter(half)[name]
        torch.testing.assert_close(found, tensor, rtol=2e-3, atol=1e-4)
    assert any(not torch.equal(final_adapter(half)[n], t) for n, t in final_adapter(plain).items())


@pytest.mark.parametrize("strategy", ["fedsvd", "flexlora", "raflora", "fedsa_lora", "flora"])
def test_what_is_held_back_is_refused_where_it_would_be_no_change(strategy: str) -> None:
    method = "lora_residual" if strategy == "flora" else "lora"
    config = RunConfig(strategy=strategy, compression="top_k", method=method)
    with pytest.raises(ConfigError) as caught:
        build_plugins(config)
    assert (
        f"compression: expected one without feedback, such as fp16 or int8(feedback=False), with "
        f"strategy '{strategy}', under which a client's change cannot make up for what it held "
        f"back before, found 'top_k'"
    ) in str(caught.value)
    build_plugins(config.model_copy(update={"compression": "int8(feedback=False)"}))


def test_wrapped_strategies_are_looked_into(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="strategy 'clipped', under which"):
        build_plugins(RunConfig(strategy="clipped('fedsvd')", compression="int8"))
    build_plugins(RunConfig(strategy="fedsa_lora(share_b=False)", compression="int8"))


def test_a_cache_that_is_gathered_anew_is_not_held_back(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="with method 'tip_adapter', of which"):
        run_small(tmp_path, method="tip_adapter", compression="top_k", num_rounds=1)


def test_both_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        build_plugins(RunConfig(compression="int9", strategy="fedavgg"))
    assert "compression: strategies/compression has no 'int9'" in str(caught.value)
    assert "'fedavgg'" in str(caught.value)


def test_scaffold_keeps_what_it_is_told_and_what_is_held_back(tmp_path: Path) -> None:
    folder = run_small(
        tmp_path, strategy="scaffold", optimiser="sgd(momentum=0)", compression="top_k"
    )
    assert not events(folder, "drop")
    assert max(bytes_up(folder)) < LORA
    kept = max((folder / "clients" / "0").iterdir())
    parts = load_adapter(kept)
    assert {name.partition("/")[0] for name in parts} == {"client-rule", "held-back"}
    assert num_bytes(parts) == 2 * 4 * LORA
