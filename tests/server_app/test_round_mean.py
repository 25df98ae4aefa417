"""A method may ask for the mean of the global adapters after each round, as PromptSRC does."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from flwr.app import Context, Message
from safetensors.torch import load, save

from fl2ora.clip_tuning.adapter import Adapter, as_adapter
from fl2ora.clip_tuning.build import build_classifier
from fl2ora.clip_tuning.methods.prompt_src import PromptSRC
from fl2ora.clip_tuning.prediction import predict
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.shares import load_federation
from fl2ora.reporting.events import read_lines
from fl2ora.server_app.callbacks.averaging import Averaging
from fl2ora.strategies.averaging.fedavg import FedAvg
from fl2ora.strategies.updates import WeightedMean
from misbehaving import Wrapped
from runs import SMALL, events, final_adapter, run_small

METHOD = "prompt_src(length=2, depth=1, mean=1.5)"
SETTINGS: dict[str, Any] = {"num_rounds": 3, "learning_rate": 0.05, "resamples": 0}


@pytest.fixture
def aggregated(monkeypatch: pytest.MonkeyPatch) -> list[Adapter]:
    """Return a list that gets the global adapter of every round in which there was a new one."""
    seen: list[Adapter] = []
    real = FedAvg.aggregate

    def spy(self: FedAvg, *args: Any, **kwargs: Any) -> Any:
        adapter = real(self, *args, **kwargs)
        seen.append(as_adapter(adapter))
        return adapter

    monkeypatch.setattr(FedAvg, "aggregate", spy)
    return seen


def _mean(adapters: list[Adapter], weights: list[float]) -> Adapter:
    return as_adapter(
        {
            name: sum(
                weight * adapter[name].double()
                for weight, adapter in zip(weights, adapters, strict=True)
            )
            for name in adapters[0]
        }
    )


def _assert_equal(one: Adapter, two: Adapter) -> None:
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-6, atol=1e-8)


def test_the_result_is_the_mean_and_it_is_what_is_measured(
    tmp_path: Path, aggregated: list[Adapter]
) -> None:
    app = Wrapped()
    folder = run_small(tmp_path, client_app=app, method=METHOD, **SETTINGS)
    weights = PromptSRC(mean=1.5).round_weights(3).tolist()
    final = final_adapter(folder)
    assert len(aggregated) == 3
    _assert_equal(_mean(aggregated, weights), final)
    assert all(not torch.allclose(final[n], t, atol=1e-6) for n, t in aggregated[-1].items())
    # Training itself goes on from each round's own adapter.
    for index in (0, 1):
        _assert_equal(aggregated[index], app.started()[3 * (index + 1)])
    rows = [r for r in read_lines(folder / "metrics.jsonl") if r["source"] == "server-test"]
    assert [row["round"] for row in rows] == [0, 1, 2, 3]
    for row, adapter in zip(rows[1:], [*aggregated[:2], final], strict=True):
        assert row["nll"] == pytest.approx(_nll(adapter), abs=1e-6)
    assert [e["weights"] for e in events(folder, "averaged")] == [[round(w, 6) for w in weights]]
    assert weights[0] == pytest.approx(0.4223, abs=1e-4)
    assert "- result: mean of the global adapters after each round, weighted 0.4223, 0.4223" in (
        folder / "summary.md"
    ).read_text(encoding="utf-8")


def _nll(adapter: Adapter) -> float:
    federation = load_federation(SMALL["dataset"], "in_distribution")
    classifier = build_classifier(
        "embedded", METHOD, federation.class_names, federation.templates, 3
    )
    classifier.restore(adapter)
    logits = predict(classifier, federation.parts[0].images.images)
    return float(
        torch.nn.functional.cross_entropy(logits.double(), federation.parts[0].images.labels)
    )


def test_a_round_that_keeps_its_adapter_counts(tmp_path: Path, aggregated: list[Adapter]) -> None:
    def fails_in_round_2(message: Message, context: Context, reply: Message) -> Message:
        if message.metadata.message_type == "train" and context.node_id == 2:
            server_round = message.content.config_records["config"]["server-round"]
            assert server_round != 2, "out of memory"
        return reply

    folder = run_small(
        tmp_path,
        client_app=Wrapped(fails_in_round_2),
        method=METHOD,
        min_train_clients=3,
        **SETTINGS,
    )
    assert [event["round"] for event in events(folder, "adapter-kept")] == [2]
    assert len(aggregated) == 2
    first, last = aggregated
    weights = PromptSRC(mean=1.5).round_weights(3).tolist()
    _assert_equal(_mean([first, first, last], weights), final_adapter(folder))


def test_other_methods_end_with_the_last_round(tmp_path: Path, aggregated: list[Adapter]) -> None:
    folder = run_small(tmp_path, **SETTINGS)
    final = final_adapter(folder)
    assert all(torch.equal(final[name], tensor) for name, tensor in aggregated[-1].items())
    assert not events(folder, "averaged")
    assert "mean of the global adapters" not in (folder / "summary.md").read_text(encoding="utf-8")


def test_there_is_one_weight_for_each_round() -> None:
    run: Any = SimpleNamespace(config=RunConfig(num_rounds=3), tracker=None)
    with pytest.raises(UserError, match=r"^round weights: expected 3, one for each.*found 2$"):
        Averaging([0.5, 0.5]).on_start(run)


def test_a_mean_goes_on_from_its_saved_state_exactly() -> None:
    adapters = [{"x": torch.randn(5, generator=torch.Generator().manual_seed(n))} for n in range(3)]
    whole = WeightedMean()
    for weight, adapter in zip((0.1, 0.7, 0.2), adapters, strict=True):
        whole.add(adapter, weight)
    first = WeightedMean()
    first.add(adapters[0], 0.1)
    first.add(adapters[1], 0.7)
    resumed = WeightedMean.from_state(load(save(first.state())))
    resumed.add(adapters[2], 0.2)
    assert resumed.total_weight == whole.total_weight
    assert torch.equal(resumed.result(torch.float64)["x"], whole.result(torch.float64)["x"])
