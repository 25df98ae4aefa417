"""Local-only training: each client is as it would be in a federation of one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fl2ora.clip_tuning.adapter import load_adapter
from fl2ora.reporting.collected_runs import collect
from fl2ora.reporting.comparison import final_row, metrics_of, summarised
from fl2ora.reporting.tables import metrics_table
from fl2ora.strategies.contract import check_strategy
from runs import events, run_small

SETTINGS = {"num_rounds": 2, "callbacks": "traffic", "method": "layer_norm", "clients": 2}


def test_it_keeps_what_every_strategy_promises() -> None:
    check_strategy("local_only", averages=False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A local-only run of two clients, and federated ones in which one of them is alone."""
    root = tmp_path_factory.mktemp("local")
    wanted = {"both": {"strategy": "local_only"}, "0": {"exclude": "1"}, "1": {"exclude": "0"}}
    return {
        name: run_small(root / name, **{**SETTINGS, **more})  # type: ignore[arg-type]
        for name, more in wanted.items()
    }


def test_each_client_ends_as_in_a_federation_of_it_alone(runs: dict[str, Path]) -> None:
    alone = []
    for client in "01":
        table = metrics_table(runs[client])
        alone.append(table[(table["source"] == "clients-test") & (table["round"] == 2)].iloc[0])
    table = metrics_table(runs["both"])
    found = table[(table["round"] == 2)].set_index("source")
    for name in ("accuracy", "nll", "confidence"):
        each = [row[name] for row in alone]
        mean = found.loc["clients-test-personal-mean", name]
        assert mean == pytest.approx(sum(each) / 2, rel=1e-6)
        sizes = [row["num_examples"] for row in alone]
        pooled = sum(size * value for size, value in zip(sizes, each, strict=True)) / sum(sizes)
        assert found.loc["clients-test-personal", name] == pytest.approx(pooled, rel=1e-6)
    assert alone[0]["nll"] != alone[1]["nll"]
    start = table[(table["source"] == "clients-test") & (table["round"] == 0)].iloc[0]
    assert found.loc["clients-test", "nll"] == start["nll"], "the global model is zero-shot CLIP"
    assert found.loc["clients-test-personal", "nll"] < start["nll"]


def test_the_global_adapter_stays_and_nothing_is_sent_back(runs: dict[str, Path]) -> None:
    final = load_adapter(runs["both"] / "global.safetensors")
    other = load_adapter(runs["0"] / "global.safetensors")
    assert any(not torch.equal(final[name], other[name]) for name in final)
    assert events(runs["both"], "drop") == []
    table = metrics_table(runs["both"])
    assert set(table["bytes_up"].dropna()) == {0}


def test_in_a_comparison_a_run_without_own_models_stands_by_its_global_one(
    runs: dict[str, Path],
) -> None:
    collection = collect([runs["both"], runs["0"]])
    metrics = metrics_of(collection, "accuracy+nll")
    table = summarised(collection, metrics, "clients-test-personal").set_index("strategy")
    both = metrics_table(runs["both"])
    row = both[(both["source"] == "clients-test-personal") & (both["round"] == 2)].iloc[0]
    assert table.loc["local_only", "nll"] == row["nll"]
    federated = next(r for r in collection.runs if r.config["strategy"] == "fedavg")
    assert table.loc["fedavg", "nll"] == final_row(federated, "clients-test")["nll"]
    assert len(table) == 3, "and zero-shot"
