"""What is reported of sums: known numbers of three clients made by hand, and a run's choice."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fl2ora.calibration.metrics.table import METRICS, chosen_metrics
from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import ConfigError
from fl2ora.reporting.events import read_lines
from fl2ora.server_app.metrics_by_source import all_metrics, client_metrics, pooled_metrics
from fl2ora.server_app.run_plugins import build_plugins
from runs import run_small


def _client(confidence: float, right: int, wrong: int) -> CalibrationStats:
    """Return two-class predictions of one confidence, so many of them right and wrong."""
    p = np.array([[confidence, 1 - confidence]] * (right + wrong))
    labels = np.array([0] * right + [1] * wrong)
    return CalibrationStats.from_probabilities(p, labels, StatsSpec(num_bins=5))


CLIENTS = {
    "a": _client(0.75, 8, 0),  # accuracy 1, gap -.25
    "b": _client(0.75, 3, 1),  # accuracy .75, gap 0
    "c": _client(0.625, 0, 2),  # accuracy 0, gap .625
    "nobody": CalibrationStats.zero(StatsSpec(num_bins=5)),
}
EACH = {  # by hand, of a, b and c
    "accuracy": (1, 0.75, 0),
    "confidence": (0.75, 0.75, 0.625),
    "ece": (0.25, 0, 0.625),
    "mce": (0.25, 0, 0.625),
    "mce_count": (8, 4, 2),
    "mce_weighted": (0.25, 0, 0.625),
    "over_confidence": (0, 0, 0.625),
    "under_confidence": (0.25, 0, 0),
    "nll": (-math.log(0.75), -(3 * math.log(0.75) + math.log(0.25)) / 4, -math.log(0.375)),
    "brier": (2 * 0.0625, (3 * 2 * 0.0625 + 2 * 0.5625) / 4, 2 * 0.625**2),
}
WORST = {  # the client, by hand: accuracy is better when higher, the rest when lower
    **dict.fromkeys(("accuracy", "ece", "mce", "mce_weighted", "over_confidence"), 2),
    **dict.fromkeys(("nll", "brier", "mce_count"), 2),
    "under_confidence": 0,
}


def test_the_spread_over_three_clients() -> None:
    found = client_metrics(CLIENTS, 0, "clients-test", chosen_metrics(" + ".join(EACH)))
    assert list(found) == [f"clients-test{e}" for e in ("", "-mean", "-sd", "-worst")]
    assert found["clients-test-mean"] == pytest.approx({n: np.mean(v) for n, v in EACH.items()})
    assert found["clients-test-sd"] == pytest.approx({n: np.std(v) for n, v in EACH.items()})
    worst = {name: EACH[name][client] for name, client in WORST.items()}
    assert found["clients-test-worst"] == pytest.approx(worst)


def test_one_client_has_no_standard_deviation() -> None:
    alone = {"b": CLIENTS["b"], "nobody": CLIENTS["nobody"]}
    found = client_metrics(alone, 0, "clients-test")
    assert list(found) == ["clients-test", "clients-test-mean", "clients-test-worst"]
    assert found["clients-test-mean"]["accuracy"] == 0.75


def test_the_pooled_clients_are_their_sum() -> None:
    pooled = client_metrics(CLIENTS, 0, "clients-test")["clients-test"]
    assert pooled["num_examples"] == 14
    assert pooled["accuracy"] == pytest.approx(11 / 14)
    # One bin holds all: 12 of .75 and 2 of .625, of which 11 are right.
    assert pooled["ece"] == pytest.approx((11 - 12 * 0.75 - 2 * 0.625) / 14)
    assert pooled["mce_count"] == 14


def test_the_worst_of_a_metric_that_is_better_when_higher() -> None:
    """AUROC: a and c have none; b has one; two more clients rank better and worse."""
    spec = StatsSpec(num_bins=5)
    p = np.array([[0.75, 0.25], [0.625, 0.375]])
    ranks = {
        "good": CalibrationStats.from_probabilities(p, np.array([0, 1]), spec),
        "bad": CalibrationStats.from_probabilities(p, np.array([1, 0]), spec),
    }
    found = client_metrics({**CLIENTS, **ranks}, 0, "s", chosen_metrics("auroc"))
    assert found["s-worst"] == {"auroc": 0.0}
    assert found["s-mean"] == {"auroc": 0.5}  # of .5, 1 and 0


def test_sources_carry_the_suffix_and_no_clients_leave_the_server_alone() -> None:
    central = {"server-test": CLIENTS["b"]}
    assert list(all_metrics(central, {}, 0, "-calibrated")) == ["server-test-calibrated"]
    assert client_metrics({"nobody": CLIENTS["nobody"]}, 0, "clients-test") == {}
    assert "clients-test-worst-x" in all_metrics(central, CLIENTS, 0, "-x")


def test_intervals_are_those_of_metrics_that_can_be_resampled() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet([1, 1, 1], 60)
    spec = StatsSpec(5, 3, 100, classwise=True)
    stats = CalibrationStats.from_probabilities(p, rng.integers(0, 3, 60), spec)
    found = pooled_metrics(stats, 20, METRICS)
    for metric in METRICS:
        ends = f"{metric.name}_low", f"{metric.name}_high"
        assert all((end in found) == metric.resampled for end in ends)
        if metric.resampled:
            assert found[ends[0]] <= found[metric.name] <= found[ends[1]]
    alone = pooled_metrics(stats, 20, chosen_metrics("classwise_ece"))
    assert alone.keys() == {"num_examples", "classwise_ece", "spiegelhalter_z", "spiegelhalter_p"}


@pytest.mark.parametrize("where", ["server", "nodes"])
def test_a_run_measures_what_it_was_asked_for(tmp_path: Path, where: str) -> None:
    text = "accuracy + mce + classwise_ece + top_label_ece + coverage_at_5_risk"
    settings = {"metrics": text, "evaluate_on": where, "num_rounds": 1, "calibrator": "temperature"}
    folder = run_small(tmp_path, **settings, resamples=0)
    names = {"accuracy", "mce", "mce_count", "classwise_ece", "top_label_ece", "coverage_at_5_risk"}
    rows = [r for r in read_lines(folder / "metrics.jsonl") if r["source"] != "training"]
    pooled = {"num_examples", "spiegelhalter_z", "spiegelhalter_p"}
    for row in rows:
        assert row.keys() - pooled == {"round", "source", *names}
    found = pd.read_csv(folder / "classwise.csv")
    last = found[(found["round"] == 1) & (found["source"] == "server-test")]
    value = next(r for r in rows if (r["round"], r["source"]) == (1, "server-test"))
    assert last["classwise_ece"].mean() == pytest.approx(value["classwise_ece"], rel=1e-9)
    assert last["examples"].sum() == last["predicted"].sum() == value["num_examples"]
    sources = {"server-test", "clients-test", "server-test-calibrated"}
    assert set(found["source"]) == sources
    assert "coverage at 5 % risk" in (folder / "summary.md").read_text(encoding="utf-8")


def test_an_unknown_metric_is_answered_before_the_run() -> None:
    config = RunConfig.from_flat({"metrics": "default + classwise_ecee"})
    with pytest.raises(ConfigError, match=r"metrics: .*did you mean 'classwise_ece'"):
        build_plugins(config)
