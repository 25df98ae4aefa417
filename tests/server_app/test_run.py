"""What a run measures and what it leaves behind."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from flwr.app import ArrayRecord, MetricRecord
from peft import PeftModel

from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.calibration.summaries import summarise
from fl2ora.client_app.app import app as client_app
from fl2ora.clip_tuning.build import build_classifier
from fl2ora.clip_tuning.embedded import load_embedded
from fl2ora.clip_tuning.prediction import predict
from fl2ora.engines.in_process_grid import InProcessGrid
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import ConfigError, UserError
from fl2ora.federated_data.shares import load_federation
from fl2ora.messages import tensors
from fl2ora.reporting.events import read_lines
from fl2ora.server_app.callbacks.base import Callback, RunContext
from fl2ora.server_app.ours_under_flower import OursUnderFlower
from fl2ora.server_app.sampling import sample
from fl2ora.strategies.averaging.fedavg import FedAvg
from misbehaving import Wrapped
from runs import SMALL, events, final_adapter, run_small

METRICS = {
    "accuracy", "confidence", "ece", "mce", "mce_weighted", "ace", "nll", "brier",
    "over_confidence", "under_confidence",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_small(tmp_path_factory.mktemp("run"), callbacks="default")


def test_every_promised_file_is_there(folder: Path) -> None:
    expected = {
        "run.json", "events.jsonl", "metrics.jsonl", "metrics.csv", "summary.md",
        "global.safetensors", "adapter", "reliability.png", "reliability.svg",
    }  # fmt: skip
    assert expected <= {path.name for path in folder.iterdir()}
    run = json.loads((folder / "run.json").read_text())
    assert run["config"]["seed"] == 3
    assert set(run["config"]) == set(RunConfig().flat())
    assert {"fingerprint", "versions", "run_id"} <= run.keys()


def test_every_source_has_every_metric_every_round(folder: Path) -> None:
    rows = read_lines(folder / "metrics.jsonl")
    sources = {"server-test", "clients-test", "clients-test-mean", "clients-test-sd"}
    for server_round in (0, 1, 2):
        here = {row["source"]: row for row in rows if row["round"] == server_round}
        trained = {"training"} if server_round else set()
        assert here.keys() == {*sources, "clients-test-worst", *trained}
        assert all(here[source].keys() >= METRICS for source in sources)
        for source in ("server-test", "clients-test"):
            row = here[source]
            for name in METRICS:
                assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"], (source, name)
            assert 0 <= row["spiegelhalter_p"] <= 1
    table = pd.read_csv(folder / "metrics.csv")
    assert len(table) == len(rows)
    assert set(table["source"]) == {row["source"] for row in rows}


def test_the_last_row_is_what_the_saved_adapter_gives(folder: Path) -> None:
    federation = load_federation(SMALL["dataset"], "in_distribution")
    classifier = build_classifier(
        "embedded", "lora", federation.class_names, federation.templates, 99
    )
    classifier.restore(final_adapter(folder))
    logits = predict(classifier, federation.parts[0].images.images)
    expected = summarise(
        CalibrationStats.from_logits(logits, federation.parts[0].images.labels, StatsSpec())
    )
    rows = read_lines(folder / "metrics.jsonl")
    last = next(r for r in rows if r["source"] == "server-test" and r["round"] == 2)
    for name in METRICS:
        assert last[name] == pytest.approx(expected[name], abs=1e-9), name


def test_row_zero_is_zero_shot(folder: Path) -> None:
    federation = load_federation(SMALL["dataset"], "in_distribution")
    plain = build_classifier(
        "embedded", "zero_shot", federation.class_names, federation.templates, 0
    )
    logits = predict(plain, federation.parts[0].images.images)
    expected = summarise(
        CalibrationStats.from_logits(logits, federation.parts[0].images.labels, StatsSpec())
    )
    rows = read_lines(folder / "metrics.jsonl")
    first = next(r for r in rows if r["source"] == "server-test" and r["round"] == 0)
    assert first["ece"] == pytest.approx(expected["ece"], abs=1e-12)
    assert first["accuracy"] == expected["accuracy"]


def test_the_exported_adapter_loads_with_peft(folder: Path) -> None:
    base, _, _ = load_embedded()
    loaded = PeftModel.from_pretrained(base, str(folder / "adapter")).eval()
    federation = load_federation(SMALL["dataset"], "in_distribution")
    classifier = build_classifier(
        "embedded", "lora", federation.class_names, federation.templates, 1
    )
    classifier.restore(final_adapter(folder))
    pixels = classifier.preprocessing.evaluation(federation.parts[0].images.images[:8])
    with torch.inference_mode():
        theirs = loaded.get_image_features(pixel_values=pixels).pooler_output
        ours = classifier.clip.get_image_features(pixel_values=pixels).pooler_output
    assert torch.equal(theirs, ours)


def test_nodes_measure_what_the_server_measures(tmp_path: Path, folder: Path) -> None:
    on_nodes = run_small(tmp_path, evaluate_on="nodes")
    here = read_lines(folder / "metrics.jsonl")
    there = read_lines(on_nodes / "metrics.jsonl")
    assert [(r["round"], r["source"]) for r in here] == [(r["round"], r["source"]) for r in there]
    for mine, theirs in zip(here, there, strict=True):
        for name in mine.keys() & METRICS:
            assert mine[name] == pytest.approx(theirs[name], abs=1e-6), (mine["source"], name)


def test_evaluation_follows_eval_every_and_the_last_round(tmp_path: Path) -> None:
    rows = read_lines(run_small(tmp_path, num_rounds=3, eval_every=2) / "metrics.jsonl")
    assert sorted({r["round"] for r in rows if r["source"] == "server-test"}) == [0, 2, 3]


def test_no_rounds_is_a_zero_shot_run(tmp_path: Path) -> None:
    done = run_small(tmp_path, num_rounds=0)
    assert {row["round"] for row in read_lines(done / "metrics.jsonl")} == {0}
    assert events(done, "finished")


def test_all_plug_in_errors_come_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        run_small(tmp_path, method="lroa", strategy="fedavg(weight='x')", loss="dca + dcaa")
    assert len(caught.value.problems) == 3
    assert "did you mean 'lora'" in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_an_infeasible_partition_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="30 clients with at least 10 examples each need 300"):
        run_small(tmp_path, clients=30, partition="dirichlet(beta=0.1)")


def test_a_server_cannot_measure_what_only_nodes_have(tmp_path: Path) -> None:
    own = {0: {"dataset": SMALL["dataset"], "site": "clinic"}}
    with pytest.raises(UserError, match="clients clinic have data of their own"):
        run_small(tmp_path, node_configs=own, evaluate_on="server", on_leak="report")


def test_ours_runs_under_flowers_plain_start() -> None:
    config = RunConfig.from_flat(SMALL).flat()
    grid = InProcessGrid(client_app, config, 2)
    federation = load_federation(SMALL["dataset"], "in_distribution")
    start = build_classifier(
        "embedded", "lora", federation.class_names, federation.templates, 3
    ).export()
    shell = OursUnderFlower(FedAvg())
    result = shell.start(grid=grid, initial_arrays=ArrayRecord(start), num_rounds=1)
    trained = result.arrays.to_torch_state_dict()
    assert trained.keys() == start.keys()
    assert any(not torch.equal(trained[name], start[name]) for name in start)
    measured = result.evaluate_metrics_clientapp[1]
    assert isinstance(measured, MetricRecord)
    assert measured.keys() >= METRICS
    assert measured["num_examples"] == 20


def test_ours_under_flower_waits_for_nodes_no_longer_than_it_says() -> None:
    grid = InProcessGrid(client_app, RunConfig.from_flat(SMALL).flat(), 2)
    shell = OursUnderFlower(FedAvg(), min_available_nodes=3, start_timeout=0.1)
    with pytest.raises(UserError, match=r"min_available_nodes: expected 3 nodes, found 2 after"):
        shell.start(grid=grid, initial_arrays=ArrayRecord({"x": torch.zeros(1)}), num_rounds=1)


def test_sampling_depends_on_seed_and_round_alone() -> None:
    clients = list("abcdefghij")
    assert sample(clients, 0.3, 1, 0, 1) == sample(clients, 0.3, 1, 0, 1)
    drawn = {tuple(sample(clients, 0.3, 1, 0, r)) for r in range(20)}
    assert len(drawn) > 10
    assert all(len(d) == 3 and list(d) == sorted(d) for d in drawn)
    assert sample(clients, 1.0, 1, 0, 1) == clients
    assert len(sample(clients, 0.01, 4, 0, 1)) == 4
    assert len(sample(clients, 0.01, 1, 0, 1)) == 1
    assert [len(sample(clients, share, 1, 0, 1)) for share in (0.24, 0.26)] == [2, 3]


def test_ranks_from_the_nodes_configs_reach_the_strategy(tmp_path: Path) -> None:
    app = Wrapped()
    run_small(
        tmp_path,
        clients=2,
        client_app=app,
        node_configs={0: {"rank": 1}},
        strategy="flexlora",
        method="lora(rank=2, dropout=0.0)",
    )
    for (node, _), arrays in zip(app.of("train"), app.started(), strict=True):
        second = [t[1] for name, t in arrays.items() if name.endswith("lora_A.weight")]
        assert all((row == 0).all() for row in second) == (node == 1)


def test_a_rank_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="client 1: node config: rank: expected a whole number"):
        run_small(tmp_path, node_configs={1: {"rank": "two"}}, strategy="flexlora")


def test_scaffold_with_client_momentum_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'scaffold': optimiser: .*found momentum 0\.9"):
        run_small(tmp_path, strategy="scaffold")
    run_small(tmp_path, strategy="scaffold", optimiser="sgd(momentum=0.0)", num_rounds=1)


def test_flowers_fedprox_by_name_has_its_penalty(tmp_path: Path) -> None:
    same = {"num_rounds": 1, "method": "lora(dropout=0.0)", "local_epochs": 3}
    flower = "flwr.serverapp.strategy:FedProx(proximal_mu=5.0)"
    theirs = final_adapter(run_small(tmp_path / "theirs", strategy=flower, **same))
    ours = final_adapter(run_small(tmp_path / "ours", strategy="fedprox(mu=5.0)", **same))
    plain = final_adapter(run_small(tmp_path / "plain", **same))
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=0, atol=1e-6)
    assert any(not torch.allclose(plain[name], ours[name], atol=1e-5) for name in ours)


@pytest.mark.parametrize(("given", "used"), [(0.0, 0.1), (0.02, 0.02)])
def test_the_record_says_which_learning_rate_was_used(
    tmp_path: Path, given: float, used: float
) -> None:
    folder = run_small(tmp_path, num_rounds=1, learning_rate=given, resamples=0)
    assert events(folder, "start")[0]["learning_rate"] == used
    assert f"- clients' learning rate: {used:g}\n" in (folder / "summary.md").read_text()


def test_the_server_and_each_client_decode_every_tensor_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a round: the start at each client, its update at the server, and nothing twice.

    In the first round the start is what the clients make for themselves.
    """
    decoded: list[str] = []
    real = tensors._decoded

    def counted(array: Any, where: str, dtype: torch.dtype) -> torch.Tensor:
        decoded.append(where.partition(":")[0])
        return real(array, where, dtype)

    monkeypatch.setattr(tensors, "_decoded", counted)
    folder = run_small(tmp_path, clients=3, num_rounds=2, strategy="fedavg", resamples=0)
    names = len(final_adapter(folder))
    assert Counter(decoded) == {"arrays": 3 * names, "update": 3 * 2 * names}


class FailsIn(Callback):
    def __init__(self, hook: str) -> None:
        self.hook = hook

    def on_start(self, run: RunContext) -> None:
        if self.hook == "on_start":
            raise ValueError("boom")

    def on_end(self, run: RunContext) -> None:
        if self.hook == "on_end":
            raise ValueError("boom")


@pytest.mark.parametrize("hook", ["on_start", "on_end"])
def test_a_callback_at_fault_outside_the_rounds_is_named(tmp_path: Path, hook: str) -> None:
    with pytest.raises(UserError, match=r"FailsIn: ValueError: boom .*test_run\.py"):
        run_small(tmp_path, num_rounds=1, callbacks=f"{__name__}:FailsIn(hook={hook!r})")


def test_an_optimiser_of_matrices_alone_can_be_used(tmp_path: Path) -> None:
    folder = run_small(
        tmp_path, num_rounds=1, optimiser="torch.optim:Muon", learning_rate=0.001, callbacks="none"
    )
    assert [event["updates"] for event in events(folder, "outcome")] == [3]
