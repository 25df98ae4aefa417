"""What a start has cost in privacy goes on counting, or a warning says that nobody knows."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import dp_accounting
import pytest

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import load
from fl2ora.reporting.events import read_lines
from fl2ora.server_app.privacy_record import PRIVACY_FILE, save_spent, spent_before
from fl2ora.strategies.averaging.fedavg import FedAvg
from fl2ora.strategies.base import RoundPlan, Strategy
from fl2ora.strategies.updates import ClientUpdate
from runs import run_small

PRIVATE = "dp_fedavg(clip=0.5, noise_multiplier=0.5, seed=1)"


def method_of(folder: Path, spec: str = "lora(start={!r})") -> TuningMethod:
    return load(spec.format(str(folder)), TuningMethod)


def epsilons(folder: Path) -> list[float]:
    rows = read_lines(folder / "metrics.jsonl")
    return [row["epsilon"] for row in rows if row["source"] == "training"]


def test_a_second_run_goes_on_from_what_the_first_spent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = run_small(tmp_path / "first", clients=2, strategy=PRIVATE)
    start = first / "adapter"
    record = json.loads((start / PRIVACY_FILE).read_text(encoding="utf-8"))
    assert record["mu"] == pytest.approx(math.sqrt(2) / 0.5)  # two rounds
    assert record["strategy"] == PRIVATE
    second = run_small(
        tmp_path / "second", clients=2, strategy=PRIVATE, method=f"lora(start={str(start)!r})"
    )
    expected = [dp_accounting.get_epsilon_gaussian(0.5 / math.sqrt(t), 1e-5) for t in (1, 2, 3, 4)]
    assert epsilons(first) + epsilons(second) == pytest.approx(expected, rel=1e-5)
    assert "is not covered" not in caplog.text


@pytest.mark.parametrize("spec", ["lora(start={!r})", "logit_scale(method='lora(start=\"{}\")')"])
def test_a_start_of_unknown_cost_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spec: str
) -> None:
    method, private = method_of(tmp_path, spec), load(PRIVATE, Strategy)
    assert spent_before(method, private) == 0.0
    assert f"starts from {tmp_path}, which has no privacy.json" in caplog.text
    caplog.clear()
    assert spent_before(method, load("fedavg", Strategy)) == 0.0  # which promises nothing
    assert spent_before(load("lora", TuningMethod), private) == 0.0
    assert not caplog.text


def test_without_noise_the_record_says_so_and_no_epsilon_follows(tmp_path: Path) -> None:
    strategy = load("local_dp(noise_multiplier=0)", Strategy)
    ledger = strategy._ledger  # type: ignore[attr-defined]
    ledger.spend("a")
    save_spent(tmp_path, "local_dp(noise_multiplier=0)", strategy)
    assert json.loads((tmp_path / PRIVACY_FILE).read_text(encoding="utf-8"))["mu"] == "unlimited"
    later = load("local_dp(noise_multiplier=2.0)", Strategy)
    assert spent_before(method_of(tmp_path), later) == math.inf
    later._ledger.carry(math.inf)  # type: ignore[attr-defined]
    assert "epsilon" not in later.metrics()


class Talks(FedAvg):
    def spent(self) -> Any:
        return "a lot"


class TalksLater(FedAvg):
    def spent(self) -> Any:
        return math.nan if self.rounds else 0.0

    rounds = 0

    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        self.rounds += 1
        return super().aggregate(plan, updates)


@pytest.mark.parametrize(("name", "found"), [("Talks", "'a lot'"), ("TalksLater", "nan")])
def test_what_a_strategy_has_spent_is_a_number_or_it_is_named(
    tmp_path: Path, name: str, found: str
) -> None:
    spec = f"test_privacy_record:{name}"
    words = rf"{spec}: TypeError: spent: expected None or a number of at least 0, found {found} \("
    with pytest.raises(UserError, match=words):
        run_small(tmp_path, clients=1, num_rounds=1, strategy=spec)
    trained = name == "TalksLater"
    for file in ("global.safetensors", "logits.safetensors", "metrics.csv", "summary.md"):
        assert (tmp_path / "runs" / "run" / file).exists() == trained, file


def test_strategies_that_promise_nothing_leave_no_record(tmp_path: Path) -> None:
    save_spent(tmp_path, "fedavg", load("fedavg", Strategy))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"mu": -1}', '{"mu": "x"}', '{"mu": NaN}', '{"mu": null}']
)
def test_a_damaged_record_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / PRIVACY_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=rf"{PRIVACY_FILE}: "):
        spent_before(method_of(tmp_path), load(PRIVATE, Strategy))
