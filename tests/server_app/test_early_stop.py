"""``early_stop``: it follows validation data in the metric's own direction, and counts rounds."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import load
from fl2ora.reporting.events import read_lines
from fl2ora.reporting.sources import CLIENTS_VALIDATION
from fl2ora.server_app.callbacks.base import Callback, RoundReport
from fl2ora.server_app.callbacks.best_round import BestRound
from fl2ora.server_app.callbacks.early_stop import EarlyStop
from fl2ora.strategies.base import RoundPlan
from runs import events, run_small


def report(value: float | None, metric: str = "nll") -> RoundReport:
    """Return a round with that value on validation data; None: it was not measured."""
    metrics = {"training": {"loss": 1.0}}
    if value is not None:
        metrics |= {CLIENTS_VALIDATION: {metric: value}, "server-test": {metric: 0.0}}
    return RoundReport(RoundPlan(1, {}, ()), {}, metrics)


class Quiet:
    """A tracker that keeps nothing."""

    def log(self, event: str, **fields: object) -> None:
        pass


def begun(stop: BestRound) -> BestRound:
    """Return it after ``on_start`` in a run that measures accuracy and NLL."""
    stop.on_start(SimpleNamespace(tracker=Quiet(), config=RunConfig()))  # type: ignore[arg-type]
    return stop


def stopped_at(stop: EarlyStop, values: list[float | None], metric: str = "nll") -> int | None:
    """Return the index of the first value at which it stops."""
    begun(stop)
    for index, value in enumerate(values):
        reaction = stop.after_round(report(value, metric))
        if reaction is not None:
            assert reaction.stop
            return index
    return None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3, 2, 1, 0.5, 0.2], None),
        ([3, 3, 3], 2),  # an equal value is no better one
        ([3, 4, 2, 2.5, 2.5], 4),  # a better value starts the count anew
        ([3, 4, 2, 5, 1], None),
        ([3, None, None, None, 4, None, 4], 6),  # rounds that were not measured do not count
    ],
)
def test_two_measured_rounds_without_a_better_value_end_the_run(
    values: list[float | None], expected: int | None
) -> None:
    assert stopped_at(EarlyStop(patience=2), values) == expected


def test_higher_accuracy_is_better() -> None:
    rising, falling = [0.1, 0.2, 0.3], [0.3, 0.2, 0.1]
    assert stopped_at(EarlyStop(1, "accuracy"), list(rising), "accuracy") is None
    assert stopped_at(EarlyStop(1, "accuracy"), list(falling), "accuracy") == 1


def test_a_value_counts_only_if_it_is_better_by_the_least_amount() -> None:
    values: list[float | None] = [1.0, 0.95, 0.91]
    assert stopped_at(EarlyStop(2, least=0.1), values) == 2
    assert stopped_at(EarlyStop(2, least=0.01), values) is None


def test_the_reason_names_metric_source_and_best_value() -> None:
    stop = EarlyStop(1, "accuracy")
    begun(stop)
    stop.after_round(report(0.75, "accuracy"))
    reaction = stop.after_round(report(0.5, "accuracy"))
    assert reaction is not None
    assert reaction.stop == (
        "accuracy of clients-validation not better than 0.75 for 1 measured rounds"
    )


def test_a_count_goes_on_from_a_saved_state() -> None:
    first = EarlyStop(patience=2)
    assert stopped_at(first, [1.0, 2.0]) is None
    resumed = EarlyStop(patience=2)
    resumed.load_state(first.state())
    assert stopped_at(resumed, [1.5]) == 0


def test_a_saved_best_value_is_exact() -> None:
    """A float32 of it would be larger, and the equal value a better one."""
    first, value = EarlyStop(patience=2), 1.0 - 2.0**-40
    assert stopped_at(first, [value]) is None
    resumed = EarlyStop(patience=2)
    resumed.load_state(first.state())
    assert stopped_at(resumed, [value, value]) == 1


def test_before_the_first_measured_round_there_is_no_best_to_save() -> None:
    resumed = EarlyStop(patience=1)
    resumed.load_state(EarlyStop(patience=1).state())
    assert stopped_at(resumed, [5.0]) is None


def test_without_calibration_images_the_key_to_raise_is_named() -> None:
    measured = {"training": {}, "server-test": {"nll": 1.0}}
    with pytest.raises(UserError, match="raise calibration-fraction"):
        begun(EarlyStop()).after_round(RoundReport(RoundPlan(1, {}, ()), {}, measured))


def test_a_metric_without_a_value_is_named_and_no_key_blamed() -> None:
    with pytest.raises(UserError, match=r"'nll' has no value .* in round 1") as found:
        begun(EarlyStop()).after_round(report(math.nan))
    assert "calibration-fraction" not in str(found.value)


def test_a_value_missing_later_is_no_better_one() -> None:
    assert stopped_at(EarlyStop(patience=2), [3.0, math.nan, 4.0]) == 2
    assert stopped_at(EarlyStop(patience=2), [3.0, math.nan, 2.0, math.nan, 2.5]) == 4


def test_a_metric_the_run_does_not_measure_is_refused_before_any_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"found 'aurc'.*'accuracy \+ nll \+ aurc'"):
        run_small(tmp_path, metrics="accuracy + nll", callbacks="early_stop(metric='aurc')")
    assert events(tmp_path / "runs" / "run", "round-start") == []


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("early_stop(patience=0)", "patience: expected at least 1 round, found 0"),
        ("early_stop(least=-1.0)", "least: expected a finite number of at least 0"),
        ("early_stop(metric='acuracy')", "did you mean 'accuracy'"),
    ],
)
def test_arguments_out_of_range_are_named(spec: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load(spec, Callback)


@pytest.mark.parametrize("where", ["server", "nodes"])
def test_a_run_that_gets_no_better_ends_early(tmp_path: Path, where: str) -> None:
    """No value is better by a hundred nats, so the first measured round is the best one."""
    folder = run_small(
        tmp_path, clients=2, num_rounds=5, evaluate_on=where, resamples=0,
        calibration_fraction=0.3, callbacks="early_stop(patience=1, least=100.0)",
    )  # fmt: skip
    assert [event["round"] for event in events(folder, "stopped")] == [2]


def test_after_an_early_stop_calibrated_metrics_stand_under_the_last_round(tmp_path: Path) -> None:
    folder = run_small(
        tmp_path, clients=2, num_rounds=5, resamples=0, calibration_fraction=0.3,
        calibrator="temperature", callbacks="early_stop(patience=1, least=100.0)",
    )  # fmt: skip
    rows = read_lines(folder / "metrics.jsonl")
    assert {row["round"] for row in rows if row["source"].endswith("-calibrated")} == {2}


@pytest.mark.parametrize("metric", ["nll", "accuracy"])
def test_the_best_round_s_adapter_is_that_of_a_run_that_ended_there(
    tmp_path: Path, metric: str
) -> None:
    """With a rate that overshoots, the best of five rounds is not the last one."""
    settings: dict[str, Any] = {
        "clients": 2, "resamples": 0, "calibration_fraction": 0.3, "learning_rate": 3.0,
        "callbacks": f"summary + best_round(metric={metric!r})",
    }  # fmt: skip
    folder = run_small(tmp_path, num_rounds=5, **settings)
    rows = read_lines(folder / "metrics.jsonl")
    values = {r["round"]: r[metric] for r in rows if r["source"] == CLIENTS_VALIDATION}
    del values[0]
    best = min(values, key=lambda n: values[n] if metric == "nll" else -values[n])
    assert 0 < best < 5
    kept = folder / f"adapter-best-{metric}"
    said = json.loads((kept / "best.json").read_text())
    assert said == {"round": best, "metric": metric, "value": values[best]}
    ended = run_small(tmp_path / "short", num_rounds=best, **settings)
    name = "adapter_model.safetensors"
    assert (kept / name).read_bytes() == (ended / "adapter" / name).read_bytes()
    assert (kept / name).read_bytes() != (folder / "adapter" / name).read_bytes()
    assert f"- best round: {best}, by {metric} of" in (folder / "summary.md").read_text()
