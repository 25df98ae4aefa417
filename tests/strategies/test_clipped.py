"""Any strategy under clipping: by hand, around a robust rule, and with ranks of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fl2ora.clip_tuning.adapter import Adapter, as_adapter
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import load
from fl2ora.reporting.events import read_lines
from fl2ora.strategies.base import Strategy
from fl2ora.strategies.robust.clipped import Clipped
from fl2ora.strategies.toy_clients import START
from fl2ora.strategies.updates import ClientUpdate
from lora_factors import A, drawn
from planned import begun
from runs import run_small


def of(inner: str, norm: float, changes: dict[str, list[float]]) -> tuple[Adapter, float]:
    """Return the next adapter from changes of (1, 1), and the share that was clipped."""
    start = {"x": torch.ones(2)}
    strategy = begun(Clipped(inner, norm), [*changes], start)
    plan = strategy.plan(1, start, [*changes])
    updates = [ClientUpdate(key, {"x": 1 + torch.tensor(c)}, 1) for key, c in changes.items()]
    result = as_adapter(strategy.aggregate(plan, iter(updates)))
    return result, strategy.metrics()["clipped_share"]


def test_a_mean_of_clipped_changes_by_hand() -> None:
    # (3, 4) becomes (0.6, 0.8); (0, 0.5) stays.
    result, share = of("fedavg", 1.0, {"a": [3.0, 4.0], "b": [0.0, 0.5]})
    torch.testing.assert_close(result["x"], torch.tensor([1.3, 1.65]))
    assert share == 0.5


def test_a_robust_rule_under_clipping_by_hand() -> None:
    changes = {"a": [3.0, 4.0], "b": [0.0, 0.5], "c": [0.3, 0.0]}
    result, share = of("median", 1.0, changes)
    torch.testing.assert_close(result["x"], torch.tensor([1.3, 1.5]))
    assert share == pytest.approx(1 / 3)
    untouched, none = of("median", 5.0, changes)
    torch.testing.assert_close(untouched["x"], torch.tensor([1.3, 1.5]))
    assert none == 0


def test_one_client_moves_a_mean_by_no_more_than_the_norm() -> None:
    far, _ = of("fedavg", 0.5, {"a": [1e6, 0.0], "b": [0.0, 0.0]})
    assert far["x"].tolist() == pytest.approx([1.25, 1.0])


def test_the_change_is_from_what_the_client_was_sent() -> None:
    start = drawn(1, rank=4)[0].adapter
    strategy = begun(Clipped("flexlora(ranks='4,1')", 1e-6), "ab", start)
    plan = strategy.plan(1, start, "ab")
    idle = [ClientUpdate(client, dict(plan.start_of(client)), 1) for client in "ab"]
    assert not idle[1].adapter[A][1:].any()
    strategy.aggregate(plan, iter(idle))
    assert strategy.metrics()["clipped_share"] == 0  # what it was not sent is no change


def test_it_wraps_wrappers_and_is_wrapped() -> None:
    attacked = load("attacked(inner=\"clipped(inner='krum', norm=1.0)\", clients='2')", Strategy)
    begun(attacked, "01234", START)
    private = load("clipped(inner='dp_fedavg(noise_multiplier=2.0)', norm=0.5)", Strategy)
    assert begun(private, "01", START).spent() == 0.0
    assert load("clipped(inner='krum(malicious=2)')", Strategy).least_updates == 7


@pytest.mark.parametrize("inner", ["scaffold", "fednova"])
def test_what_sends_more_than_the_adapter_is_refused(inner: str) -> None:
    with pytest.raises(UserError, match=f"clipped: .* client half '{inner}.*' sends tensors"):
        begun(Clipped(inner), "0", START)


@pytest.mark.parametrize("norm", ["0.0", "-1.0", "'x'"])
def test_a_norm_that_means_nothing_is_refused(norm: str) -> None:
    with pytest.raises(UserError, match="norm: expected"):
        load(f"clipped(norm={norm})", Strategy)


def test_a_run_records_the_share(tmp_path: Path) -> None:
    folder = run_small(tmp_path, clients=2, strategy="clipped(inner='median', norm=0.001)")
    rows = [r for r in read_lines(folder / "metrics.jsonl") if r["source"] == "training"]
    assert [row["clipped_share"] for row in rows] == [1.0, 1.0]
