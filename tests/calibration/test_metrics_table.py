"""The one list of metrics: names, choices, sizes, and the lists that must not come back."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from known_examples import CONFIDENCE_A, CORRECT_A, random_predictions, rows_with

from fl2ora.calibration.metrics.table import DEFAULT, METRICS, chosen_metrics, spec_for
from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.calibration.summaries import summarise, summarise_pooled
from fl2ora.calibration.uncertainty import GAP_METRICS

ROOT = Path(__file__).parents[2]
# Decided by hand, from the definitions.
HIGHER = {"accuracy", "auroc", "coverage_at_5_risk"}
NEITHER = {"confidence", "mce_count"}
# 0 without gaps, and no more than the sum of the values of two gaps where these are added.
GAPS = {
    *("ece", "mce", "mce_equal_mass", "mce_weighted", "ace", "over_confidence", "under_confidence"),
    *("rmsce", "average_ce", "ks_error"),
}


def names(metrics):
    return [metric.name for metric in metrics]


def test_names_are_unique_and_directions_are_those_of_the_definitions():
    assert len(set(names(METRICS))) == len(METRICS)
    assert {m.name for m in METRICS if m.better == "higher"} == HIGHER
    assert {m.name for m in METRICS if m.better is None} == NEITHER
    assert {m.name for m in METRICS if m.gap} == GAPS
    assert {m.better for m in METRICS} == {"higher", "lower", None}
    assert {m.name for m in METRICS if m.headline} == {"accuracy", "ece"}
    for metric in METRICS:
        assert metric.title
        assert metric.description
        assert "|" not in metric.title + metric.description
        assert metric.beside in ("", *names(METRICS))


def test_fractions_lie_between_zero_and_one():
    p, labels = random_predictions(3, 300, 6)
    found = summarise_pooled(p, labels, METRICS)
    for metric in METRICS:
        assert found[metric.name] >= 0
        if metric.unit == "fraction":
            assert found[metric.name] <= 1


def test_a_choice_comes_in_the_order_of_the_table_without_repeats():
    assert chosen_metrics("default") == DEFAULT
    assert chosen_metrics(" aurc+ default +ece") == (*DEFAULT, *chosen_metrics("aurc"))
    assert names(chosen_metrics("smooth-ece + nll")) == ["nll", "smooth_ece"]


def test_mce_never_comes_without_the_size_of_its_bin():
    assert names(chosen_metrics("mce")) == ["mce", "mce_count"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("default + claswise_ece", "found 'claswise_ece' .* did you mean 'classwise_ece'"),
        ("", "found ''"),
        ("ece +", "found ''"),
        ("2*ece", r"found '2\*ece'"),
        ("ece(bins=10)", r"found 'ece\(bins=10\)'"),
        ("none", "valid: default, accuracy, confidence, ece"),
    ],
)
def test_an_unknown_name_is_answered_with_the_valid_ones(text, message):
    with pytest.raises(ValueError, match=message):
        chosen_metrics(text)


def test_sums_are_as_large_as_the_metrics_need():
    assert spec_for(DEFAULT, 10, 100) == StatsSpec(num_bins=10)
    assert spec_for(chosen_metrics("ece + nll"), 10, 100) == StatsSpec(10, fine_bins=0)
    assert spec_for(chosen_metrics("top_label_ece"), 10, 100) == StatsSpec(10, 100, 0, True)
    whole = spec_for(METRICS, 10, 100)
    assert whole == StatsSpec(10, 100, 1000, True)
    assert whole.num_floats == 5 * 10 + 5 + 3 * 1000 + 6 * 10 * 100


@pytest.mark.parametrize("metric", METRICS, ids=names(METRICS))
def test_every_metric_needs_no_more_than_its_sums(metric):
    confidence = np.linspace(0.3, 0.999, 300)  # each in a fine bin of its own
    correct = np.random.default_rng(0).random(300) < confidence**0.2
    p, labels = rows_with(confidence, correct, num_classes=5)
    spec = spec_for([metric], 12, 5)
    stats = CalibrationStats.from_probabilities(p, labels, spec)
    found = summarise(stats, [metric])[metric.name]
    exact = summarise_pooled(p, labels, [metric], num_bins=12)[metric.name]
    assert type(found) is float
    assert type(exact) is float
    assert found == pytest.approx(exact, abs=1e-6)
    assert math.isnan(summarise(CalibrationStats.zero(spec), [metric])[metric.name])


@pytest.mark.parametrize("metric", [m for m in METRICS if m.of_scores], ids=lambda m: m.name)
def test_what_is_approximate_from_sums_is_exact_from_scores(metric):
    """Two coarse cells give another value; the exact one does not know of them."""
    confidence = np.linspace(0.3, 0.999, 150)
    sure = np.where(confidence < 0.65, 0.9, 0.6)  # under-, then overconfident inside a cell
    p, labels = rows_with(confidence, np.random.default_rng(1).random(150) < sure)
    coarse = CalibrationStats.from_probabilities(p, labels, StatsSpec(5, fine_bins=2))
    exact = summarise_pooled(p, labels, [metric], num_bins=5)[metric.name]
    assert metric.of(coarse) != exact
    shuffled = np.random.default_rng(0).permutation(150)
    again = summarise_pooled(p[shuffled], labels[shuffled], [metric], num_bins=5)[metric.name]
    assert again == pytest.approx(exact, rel=1e-9)


def test_known_values_of_example_a():
    p, labels = rows_with(CONFIDENCE_A, CORRECT_A)
    chosen = chosen_metrics("rmsce + average_ce + overconfidence_error + debiased_ce + brier_top1")
    found = summarise_pooled(p, labels, chosen, num_bins=5)
    assert found == pytest.approx(
        {
            **{"num_examples": 10, "rmsce": 0.197695, "average_ce": 0.176667},
            **{"overconfidence_error": 0.093875, "debiased_ce": 0.0, "brier_top1": 0.217},
        },
        abs=1e-6,
    )
    free = summarise_pooled(p, labels, chosen_metrics("ks_error + smooth_ece + aurc + e_aurc"))
    assert free == pytest.approx(
        {
            **{"num_examples": 10, "smooth_ece": 0.110179, "ks_error": 0.08},
            **{"aurc": 0.356468, "e_aurc": 0.179286},
        },
        abs=2e-6,
    )


def test_intervals_know_the_gap_metrics_from_the_table():
    assert {m.name for m in DEFAULT if m.gap} == GAP_METRICS


def test_no_other_file_lists_metrics():
    """A list of three or more names of metrics in a row belongs into the table."""
    name = "|".join(f"['\"]{metric.name}['\"]" for metric in METRICS)
    several = re.compile(rf"(?:{name})\s*[:,][^\n]*?(?:{name})\s*[:,][^\n]*?(?:{name})")
    rooms = ("calibration", "reporting", "server_app", "client_app", "messages", "engines")
    files = [path for room in (*rooms, "commands") for path in (ROOT / room).rglob("*.py")]
    listing = [path for path in files if several.search(path.read_text(encoding="utf-8"))]
    assert [path.relative_to(ROOT).as_posix() for path in listing] == [
        "calibration/__init__.py",
        "calibration/metrics/table.py",
        "reporting/report_sentences.py",  # what its sentences are made of
        "reporting/against_baseline.py",  # those there is a paired test for
    ]
