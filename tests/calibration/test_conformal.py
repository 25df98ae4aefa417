"""Conformal sets: known answers, counts that find the threshold, and the promised coverage."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import binomtest

from fl2ora.calibration.calibrators.conformal import Conformal
from fl2ora.calibration.calibrators.fitting import fit, fit_to_the_end
from fl2ora.calibration.calibrators.temperature import Temperature
from fl2ora.calibration.conformal.quantile import Bracket, conformal_rank, counts_in, narrowed
from fl2ora.calibration.conformal.scores import class_scores, largest_score
from fl2ora.calibration.conformal.set_sums import SetSums, over_clients


def by_loops(p: list[float], kind: str, penalty: float, free: int) -> list[float]:
    """Return the scores of one image, from their definition."""
    found = []
    for k, own in enumerate(p):
        likelier = [q for j, q in enumerate(p) if q > own or (q == own and j < k)]
        if kind == "lac":
            found.append(1 - own)
        else:
            rank = len(likelier) + 1
            extra = penalty * max(0, rank - free) if kind == "raps" else 0
            found.append(min(1.0, sum(likelier) + own) + extra)
    return found


@pytest.mark.parametrize("kind", ["lac", "aps", "raps"])
def test_scores_are_those_of_the_definition(kind: str) -> None:
    p = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)).double().softmax(1)
    p[3] = torch.tensor([0.25, 0.25, 0.25, 0.25, 0, 0], dtype=torch.float64)
    found = class_scores(p, kind, penalty=0.3, free=2)
    expected = [by_loops(row, kind, 0.3, 2) for row in p.tolist()]
    assert found.numpy() == pytest.approx(np.array(expected), abs=1e-12)
    assert float(found.max()) <= largest_score(kind, 6, 0.3, 2) + 1e-12


def lowest_of_rank(scores: torch.Tensor, alpha: float) -> float:
    """Return the ``ceil((n + 1)(1 - alpha))``-th lowest score, in exact arithmetic."""
    rank = math.ceil((len(scores) + 1) * (1 - Fraction(str(alpha))))
    return sorted([*scores.tolist(), math.inf])[rank - 1]


@given(
    st.lists(st.integers(0, 5000), min_size=1, max_size=60),
    st.sampled_from([0.05, 0.1, 0.2, 0.3, 0.5]),
    st.sampled_from([2, 7, 256]),
)
def test_counts_find_the_threshold_of_the_pooled_scores(
    whole: list[int], alpha: float, bins: int
) -> None:
    scores = torch.tensor(whole, dtype=torch.float64) / 5000
    bracket, rank = Bracket(0.0, 1.0), conformal_rank(len(whole), alpha)
    expected = lowest_of_rank(scores, alpha)
    if rank > len(whole):
        assert expected == math.inf
        return
    for _ in range(3):
        counts = sum(
            (counts_in(part, bracket, bins) for part in scores.split(7)), torch.zeros(bins + 2)
        )
        bracket = narrowed(counts, bracket, rank, 1.0)
    assert bracket.threshold >= expected
    assert bracket.threshold - expected <= bins**-3 + 1e-12
    assert int((scores <= bracket.threshold).sum()) >= rank


def test_where_others_count_than_before_the_threshold_is_not_too_low() -> None:
    few = torch.linspace(0.1, 0.2, 50, dtype=torch.float64)
    many = torch.cat([few, torch.linspace(0.6, 0.9, 500, dtype=torch.float64)])
    first = narrowed(counts_in(few, Bracket(0, 1), 10), Bracket(0, 1), 45, 1.0)
    assert first.threshold <= 0.2 + 1e-12
    moved = narrowed(counts_in(many, first, 10), first, 500, 1.0)
    assert (moved.above, moved.threshold) == (first.threshold, 1.0)
    back = narrowed(counts_in(few, moved, 10), moved, 45, 1.0)
    assert back.threshold == moved.above
    assert int((few <= back.threshold).sum()) >= 45


def logits_and_labels(images: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits of 5 classes that are too sharp, and labels."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, 5, generator=generator, dtype=torch.float64)
    labels = torch.multinomial((logits / 2).softmax(1), 1, generator=generator).squeeze(1)
    return logits, labels


@pytest.mark.parametrize("spec", [("lac", 0.1), ("aps", 0.1), ("raps", 0.2)])
def test_coverage_over_many_calibrations_is_that_of_the_theory(spec: tuple[str, float]) -> None:
    # n scores without ties: the coverage of new images has mean rank / (n + 1).
    score, alpha = spec
    n, hits, total = 60, 0, 0
    test_logits, test_labels = logits_and_labels(400, 10_000)
    for seed in range(150):
        logits, labels = logits_and_labels(n, seed)
        conformal = Conformal(score, alpha, penalty=0.05, free=1)
        parameters = fit(conformal, [(logits[:20], labels[:20]), (logits[20:], labels[20:])])
        sums = SetSums.of(conformal.sets(test_logits, parameters), test_labels)
        hits, total = hits + sums.covered, total + sums.count
    expected = conformal_rank(n, alpha) / (n + 1)
    # One coverage varies by about 0.04, its mean over 150 by 0.0035; the test images add as much
    # as 0.02, and sets without random tie-breaking may cover more.
    assert hits / total > 1 - alpha - 0.03
    if score == "lac":
        assert hits / total == pytest.approx(expected, abs=0.03)


def test_a_set_holds_what_its_threshold_allows_and_always_the_likeliest_class() -> None:
    logits, labels = logits_and_labels(200, 1)
    for score in ("lac", "aps", "raps"):
        conformal = Conformal(score, alpha=0.4)
        parameters = fit(conformal, [(logits, labels)])
        sets = conformal.sets(logits, parameters)
        p = logits.softmax(1)
        for row, probabilities in zip(sets.tolist(), p.tolist(), strict=True):
            scores = by_loops(probabilities, score, 0.01, 5)
            top = int(np.argmax(probabilities))
            expected = [
                s <= float(parameters["threshold"]) or k == top for k, s in enumerate(scores)
            ]
            assert row == expected
    assert torch.equal(conformal.apply(logits, parameters), logits.log_softmax(1))


def test_too_few_images_for_the_wanted_coverage_give_sets_of_all_classes() -> None:
    logits, labels = logits_and_labels(8, 2)
    for score in ("lac", "aps", "raps"):
        conformal = Conformal(score, alpha=0.1, penalty=0.5, free=1)
        assert conformal.sets(logits, fit(conformal, [(logits, labels)])).all()
    one_more = logits_and_labels(9, 2)
    assert not conformal.sets(logits, fit(conformal, [one_more])).all()


@pytest.mark.parametrize("score", ["lac", "aps"])
def test_after_a_temperature_sets_stand_on_calibrated_probabilities(score: str) -> None:
    logits, labels = logits_and_labels(90, 4)
    logits, y, alpha = 4 * logits.double(), labels.numpy(), 0.2
    conformal = Conformal(score, alpha, after="temperature")
    parameters = fit(conformal, [(logits[:50], labels[:50]), (logits[50:], labels[50:])])

    def nll(beta: float) -> float:
        return -log_softmax(beta * logits.numpy(), axis=1)[np.arange(90), y].mean()

    beta = minimize_scalar(nll, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-9}).x
    assert beta < 0.6, "the logits are far too sharp"
    p = softmax(beta * logits.numpy(), axis=1)
    scores = np.array([by_loops(row, score, 0, 0) for row in p.tolist()])
    threshold = np.sort(scores[np.arange(90), y])[math.ceil(91 * (1 - alpha)) - 1]
    assert float(parameters["threshold"]) == pytest.approx(threshold, abs=1e-6)
    assert conformal.apply(logits, parameters).exp().numpy() == pytest.approx(p, abs=1e-5)
    likeliest = np.eye(5, dtype=bool)[logits.argmax(1)]
    wanted = (scores <= threshold + 1e-5) | likeliest
    assert (conformal.sets(logits, parameters).numpy() == wanted).mean() > 0.99
    assert float(parameters["threshold"]) != pytest.approx(
        float(fit(Conformal(score, alpha), [(logits, labels)])["threshold"]), abs=0.01
    )


def test_the_first_fit_sends_its_own_sums_and_is_checked_as_it_is_alone() -> None:
    logits, labels = logits_and_labels(30, 5)
    conformal, alone = Conformal(after="temperature"), Temperature()
    state, other = conformal.start(5), alone.start(5)
    steps = 0
    while conformal.statistics(logits, labels, state).keys() != {"count"}:
        sums = conformal.statistics(logits, labels, state)
        expected = alone.statistics(logits, labels, other)
        assert sums == expected
        conformal.check_sums(sums, state, 5)
        with pytest.raises(ValueError, match="curvature"):
            conformal.check_sums({**sums, "curvature": torch.tensor(1e9)}, state, 5)
        state, other = conformal.update(state, sums), alone.update(other, expected)
        steps += 1
    assert steps >= 2
    assert other.done
    assert not state.done
    forgotten = conformal.restart(conformal.start(5)).solver["before.base_loss"]
    assert math.isinf(forgotten)
    assert conformal.max_steps == alone.max_steps + 3


def test_a_first_fit_whose_steps_are_spent_is_told_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = [logits_and_labels(60, 6)]
    assert fit_to_the_end(Conformal(after="temperature"), data).converged
    monkeypatch.setattr(Temperature, "max_steps", 1)
    found = fit_to_the_end(Conformal(after="temperature"), data)
    assert found.done
    assert not found.converged


@pytest.mark.parametrize(
    "spec",
    ["vector", "sals", "dac", "zero_shot_temperature", "zero_shot_temperature(2.0)", "conformal"],
)
def test_what_cannot_be_fitted_first_is_refused(spec: str) -> None:
    with pytest.raises(ValueError, match="after: expected a calibrator that is fitted to logits"):
        Conformal(after=spec)


@pytest.mark.parametrize(
    "spec", ["temprature", "temperature(3)", "os.system('x')", "beta(smooth=2)"]
)
def test_a_spec_that_is_none_is_refused(spec: str) -> None:
    with pytest.raises(ValueError, match="after: "):
        Conformal(after=spec)


def test_a_threshold_is_refused_for_another_number_of_classes() -> None:
    conformal = Conformal()
    parameters = fit(conformal, [logits_and_labels(30, 3)])
    conformal.check(parameters, 5)
    with pytest.raises(ValueError, match="expected 6, found 5: a threshold means nothing"):
        conformal.check(parameters, 6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"score": "top"}, "score: expected one of lac, aps, raps, found 'top'"),
        ({"alpha": 0}, "alpha: expected a number > 0, found 0"),
        ({"alpha": 1.0}, "alpha: expected a number between 0 and 1, found 1.0"),
        ({"alpha": math.nan}, "alpha: expected a number > 0, found nan"),
        ({"penalty": -1}, "penalty: expected"),
        ({"free": 0.5}, "free: expected"),
        ({"bins": 1}, "bins: expected"),
    ],
)
def test_an_argument_that_cannot_be_is_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Conformal(**arguments)  # type: ignore[arg-type]


def test_sums_of_sets_add_and_their_interval_is_scipys() -> None:
    sets = torch.rand(30, 4, generator=torch.Generator().manual_seed(0)) < 0.7
    labels = torch.arange(30) % 4
    whole = SetSums.of(sets, labels)
    assert SetSums.of(sets[:11], labels[:11]) + SetSums.of(sets[11:], labels[11:]) == whole
    found = whole.metrics()
    expected = binomtest(whole.covered, 30).proportion_ci(0.95, "exact")
    assert found["coverage_low"] == pytest.approx(expected.low)
    assert found["coverage_high"] == pytest.approx(expected.high)
    assert found["set_size"] == pytest.approx(float(sets.sum()) / 30)
    assert SetSums().metrics() == {}


def test_over_clients_each_counts_once() -> None:
    found = over_clients([SetSums(10, 9, 20), SetSums(), SetSums(90, 45, 90)])
    assert found["mean"] == pytest.approx({"coverage": 0.7, "set_size": 1.5})
    assert found["sd"] == pytest.approx({"coverage": 0.2, "set_size": 0.5})
    assert found["worst"] == {"coverage": 0.5, "set_size": 2.0}
    assert over_clients([SetSums()]) == {}
