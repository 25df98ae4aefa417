"""Calibrators of the top-1 confidence: known numbers of Ex-A, sklearn, netcal, scipy, loops."""

import math
import warnings

import numpy as np
import pytest
import torch
from netcal.binning import HistogramBinning as ReferenceBinning
from scipy.interpolate import CubicSpline
from sklearn.isotonic import IsotonicRegression

from fl2ora.calibration.calibrators._top1 import interpolate, top1
from fl2ora.calibration.calibrators.bbq import Bbq
from fl2ora.calibration.calibrators.fitting import fit
from fl2ora.calibration.calibrators.histogram_binning import HistogramBinning
from fl2ora.calibration.calibrators.isotonic import Isotonic, pool_adjacent_violators
from fl2ora.calibration.calibrators.spline import Spline, natural_spline

torch.set_num_threads(1)

EXAMPLE_C = np.array([0.10, 0.20, 0.35, 0.40, 0.55, 0.60, 0.75, 0.90, 0.95, 1.0])
EXAMPLE_A = np.array([0, 0, 1, 0, 1, 0, 1, 1, 0, 1])


def logits_with(confidence, classes=16):
    """Return logits whose class 0 is predicted with the given confidence (> 1 / classes)."""
    c = np.asarray(confidence, np.float64)
    rows = np.zeros((len(c), classes))
    with np.errstate(divide="ignore"):
        rows[:, 0] = np.minimum(np.log(c) - np.log((1 - c) / (classes - 1)), 800)
    return torch.tensor(rows)


def example(shift=1e-9):
    """Return Ex-A as (logits, labels), a hair below every edge: in the bin ending there."""
    c = np.where(EXAMPLE_C < 1, EXAMPLE_C - shift, 1)
    return logits_with(c), torch.tensor(1 - EXAMPLE_A)


def accuracies(calibrator, data):
    return fit(calibrator, [data])["accuracy"].numpy()


def draw(seed, n, decimals=None):
    rng = np.random.default_rng(seed)
    c = 0.1 + 0.899 * rng.random(n)
    c = c if decimals is None else np.round(c, decimals) - 10.0 ** -(decimals + 1)
    a = (rng.random(n) < c**2).astype(int)
    return c, a, (logits_with(c), torch.tensor(1 - a))


def test_top1_reads_confidence_and_its_complement_in_the_log_domain():
    top = top1(torch.tensor([[0.0, 2.0, 1.0], [900.0, 0.0, 1.0], [1.0, 1.0, 0.0]]))
    assert top.predicted.tolist() == [1, 0, 0]
    total = math.e**2 + math.e + 1
    assert float(top.confidence[0]) == pytest.approx(math.e**2 / total)
    assert float(top.log_rest[0]) == pytest.approx(math.log((math.e + 1) / total))
    assert float(top.confidence[1]) == 1
    assert float(top.log_rest[1]) == pytest.approx(math.log(math.e + 1) - 900)
    assert top.others[1, 1:].exp().tolist() == pytest.approx(
        [1 / (1 + math.e), math.e / (1 + math.e)]
    )


def test_other_probabilities_are_rescaled_together():
    p = np.array([[0.6, 0.3, 0.1]])
    data = (torch.tensor(np.log(p)).repeat(4, 1), torch.tensor([0, 1, 1, 2]))
    calibrator = HistogramBinning()
    parameters = fit(calibrator, [data])
    applied = calibrator.apply(data[0][:1], parameters).exp().numpy()
    factor = (1 - 0.25) / (1 - 0.6)
    np.testing.assert_allclose(applied, [[0.25, 0.3 * factor, 0.1 * factor]], rtol=1e-12)
    assert applied.argmax() == 1  # another class is more probable, yet the report stays 0
    assert calibrator.predictions(data[0][:1], parameters).tolist() == [0]
    assert calibrator.confidence(data[0][:1], parameters).tolist() == [0.25]


def test_certainty_is_spread_over_the_others_and_never_infinite():
    certain = torch.tensor([[1000.0, 0, 0, 0]])
    data = (certain.repeat(4, 1), torch.tensor([0, 1, 1, 1]))
    calibrator = HistogramBinning()
    parameters = fit(calibrator, [data])
    applied = calibrator.apply(certain, parameters).exp()
    np.testing.assert_allclose(applied, [[0.25] * 4], rtol=1e-12)
    never = fit(calibrator, [(certain, torch.tensor([1]))])
    assert float(calibrator.confidence(certain, never)) == 0
    np.testing.assert_allclose(calibrator.apply(certain, never)[0, 0], math.log(1e-12), rtol=1e-12)
    always = fit(calibrator, [(certain, torch.tensor([0]))])
    assert float(calibrator.confidence(certain, always)) == 1
    applied = calibrator.apply(certain, always)
    np.testing.assert_allclose(applied[0, 1:], math.log(1e-12 / 3), rtol=1e-3)
    assert torch.isfinite(applied).all()


def test_histogram_binning_of_the_example():
    exact = accuracies(HistogramBinning(bins=5), example())
    np.testing.assert_allclose(exact, [0, 1 / 2, 1 / 2, 1, 2 / 3], rtol=1e-12)
    smooth = accuracies(HistogramBinning(bins=5, laplace=True), example())
    np.testing.assert_allclose(smooth, [1 / 4, 2 / 4, 2 / 4, 2 / 3, 3 / 5], rtol=1e-12)


def test_histogram_binning_leaves_empty_bins_at_their_middle():
    data = (logits_with([0.4, 0.45]), torch.tensor([0, 1]))
    for laplace in (False, True):
        found = accuracies(HistogramBinning(bins=4, laplace=laplace), data)
        np.testing.assert_allclose(found, [1 / 8, 1 / 2, 5 / 8, 7 / 8])


def test_histogram_binning_agrees_with_netcal():
    c, a, data = draw(0, 500)
    reference = ReferenceBinning(bins=10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference.fit(c, a)
        wanted = reference.transform(c)
    calibrator = HistogramBinning(bins=10)
    found = calibrator.confidence(data[0], fit(calibrator, [data]))
    np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_pooling_adjacent_violators_of_the_example():
    raw = pool_adjacent_violators(torch.tensor(EXAMPLE_A).double(), torch.ones(10).double())
    np.testing.assert_allclose(raw, [0, 0, 0.5, 0.5, 0.5, 0.5, 2 / 3, 2 / 3, 2 / 3, 1])
    reference = IsotonicRegression().fit(EXAMPLE_C, EXAMPLE_A)
    np.testing.assert_allclose(raw, reference.predict(EXAMPLE_C), atol=1e-12)
    binned = accuracies(Isotonic(bins=5), example())
    np.testing.assert_allclose(binned, [0, 0.5, 0.5, 0.75, 0.75], atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_pooling_agrees_with_sklearn_for_any_weights(seed):
    rng = np.random.default_rng(seed)
    values, weights = rng.random(40), rng.integers(1, 9, 40).astype(float)
    found = pool_adjacent_violators(torch.tensor(values), torch.tensor(weights))
    wanted = IsotonicRegression().fit(np.arange(40), values, sample_weight=weights)
    np.testing.assert_allclose(found, wanted.predict(np.arange(40)), atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_isotonic_is_exact_where_confidence_is_constant_in_each_bin(seed):
    c, a, data = draw(seed, 400, decimals=2)  # one value in each of 100 bins
    calibrator = Isotonic(bins=100)
    parameters = fit(calibrator, [data])
    reference = IsotonicRegression(out_of_bounds="clip").fit(c, a)
    unseen = np.linspace(0.07, 0.999, 500)
    for at in (c, unseen):
        found = calibrator.confidence(logits_with(at), parameters)
        np.testing.assert_allclose(found, reference.predict(at), atol=1e-6)


@pytest.mark.parametrize(("seed", "bins"), [(0, 10), (1, 50), (2, 1000)])
def test_isotonic_exceeds_the_exact_squared_error_by_the_stated_bound_at_most(seed, bins):
    c, a, data = draw(seed, 400)
    calibrator = Isotonic(bins=bins)
    index = np.ceil(c * bins).astype(int) - 1
    parameters = fit(calibrator, [data])
    fitted = parameters["accuracy"].numpy()[index]
    best = IsotonicRegression().fit_transform(c, a)
    excess = ((fitted - a) ** 2).mean() - ((best - a) ** 2).mean()
    assert excess >= -1e-12
    assert excess <= 2 * np.bincount(index).max() / 400
    assert (np.diff(parameters["accuracy"].numpy()) >= -1e-12).all()
    assert (np.diff(parameters["confidence"].numpy()) > 0).all()


def test_isotonic_with_one_full_bin_is_constant():
    data = (logits_with([0.5, 0.5, 0.5, 0.5]), torch.tensor([0, 1, 1, 1]))
    calibrator = Isotonic(bins=10)
    found = calibrator.confidence(logits_with([0.1, 0.5, 0.99]), fit(calibrator, [data]))
    assert found.tolist() == [0.25] * 3


def test_interpolation_agrees_with_numpy_and_is_flat_outside():
    knots, values = np.array([0.1, 0.4, 0.5]), np.array([1.0, 3.0, 2.0])
    at = np.array([0.0, 0.1, 0.2, 0.4, 0.45, 0.5, 0.9])
    found = interpolate(*map(torch.tensor, (at, knots, values)))
    np.testing.assert_allclose(found, np.interp(at, knots, values), rtol=1e-12)


def evidence_by_loop(c, a, size, pseudo=2.0):
    """Return log evidence and the estimates of every bin, one bin after the other."""
    total, estimates = 0.0, []
    for b in range(size):
        inside = (c > b / size) & (c <= (b + 1) / size)
        n, hits = int(inside.sum()), int(a[inside].sum())
        alpha = pseudo * (b + 0.5) / size
        beta = pseudo - alpha
        total += math.lgamma(pseudo) - math.lgamma(n + pseudo)
        total += math.lgamma(hits + alpha) - math.lgamma(alpha)
        total += math.lgamma(n - hits + beta) - math.lgamma(beta)
        estimates.append((hits + alpha) / (n + pseudo))
    return total, np.array(estimates)


def test_bbq_of_the_example():
    sizes = [1, 2, 5]
    scored = [evidence_by_loop(EXAMPLE_C, EXAMPLE_A, size) for size in sizes]
    evidence = np.array([score for score, _ in scored])
    np.testing.assert_allclose(evidence, [-7.927324, -7.640367, -7.458986], atol=1e-6)
    weights = np.exp(evidence) / np.exp(evidence).sum()
    np.testing.assert_allclose(weights, [0.254472, 0.33905, 0.406478], atol=1e-6)
    calibrator = Bbq(bins=sizes)
    parameters = fit(calibrator, [example()])
    np.testing.assert_allclose(parameters["weights"], weights, rtol=1e-9)
    found = float(calibrator.confidence(logits_with([0.95]), parameters))
    wanted = sum(w * estimates[-1] for w, (_, estimates) in zip(weights, scored, strict=True))
    assert found == pytest.approx(wanted, rel=1e-9)
    assert found == pytest.approx(0.669256, abs=1e-6)


@pytest.mark.parametrize(("n", "pseudo"), [(30, 2.0), (1500, 2.0), (200, 0.5)])
def test_bbq_averages_the_divisors_of_its_grid_that_suit_the_count(n, pseudo):
    c, a, data = draw(1, n)
    root = n ** (1 / 3)
    sizes = [b for b in range(1, 721) if 720 % b == 0]
    allowed = [max(1, math.floor(root / 10)) <= b <= 10 * root for b in sizes]
    assert any(allowed)
    assert not all(allowed)
    scored = [evidence_by_loop(c, a, size, pseudo) for size in sizes]
    evidence = np.array([s if ok else -np.inf for (s, _), ok in zip(scored, allowed, strict=True)])
    weights = np.exp(evidence - evidence.max())
    weights /= weights.sum()
    at = np.array([0.1503, 0.5003, 0.7703, 0.9953])
    wanted = sum(
        w * estimates[np.ceil(at * size).astype(int) - 1]
        for w, size, (_, estimates) in zip(weights, sizes, scored, strict=True)
    )
    calibrator = Bbq(pseudo_count=pseudo)
    parameters = fit(calibrator, [data])
    np.testing.assert_allclose(parameters["weights"], weights, rtol=1e-7, atol=1e-12)
    found = calibrator.confidence(logits_with(at), parameters)
    np.testing.assert_allclose(found, wanted, rtol=1e-7)


@pytest.mark.parametrize(("n", "least"), [(30, 1), (7999, 1), (8001, 2), (27001, 3)])
def test_bbq_leaves_out_numbers_of_bins_that_are_too_few_for_the_count(n, least):
    calibrator = Bbq()
    count = torch.zeros(720, dtype=torch.float64)
    count[357] = n  # one full cell near the middle, half of it right: few bins explain it well
    weights = calibrator.update(calibrator.start(2), {"count": count, "correct": count / 2})
    used = (weights.parameters["weights"] > 1e-6).nonzero().squeeze(1).tolist()
    assert min(used) == least - 1  # the divisors begin with 1, 2, 3


@pytest.mark.parametrize("knots", [3, 6, 9])
def test_natural_spline_agrees_with_scipy(knots):
    at = np.linspace(0, 1, 57)
    heights = np.random.default_rng(0).normal(size=knots)
    reference = CubicSpline(np.linspace(0, 1, knots), heights, bc_type="natural")
    value, slope = natural_spline(torch.tensor(at), knots)
    np.testing.assert_allclose(value.numpy() @ heights, reference(at), atol=1e-10)
    np.testing.assert_allclose(slope.numpy() @ heights, reference(at, 1), atol=1e-9)


def spline_by_ranks(c, a, at, knots=6):
    """Fit a spline to the cumulative gap of the sorted examples themselves, with scipy."""
    order = np.argsort(c)
    ranks = np.arange(1, len(c) + 1) / len(c)
    curve = (a - c)[order].cumsum() / len(c)
    grid = np.linspace(0, 1, knots)
    basis = np.stack([CubicSpline(grid, u, bc_type="natural")(ranks) for u in np.eye(knots)], 1)
    heights = np.linalg.lstsq(basis, curve, rcond=None)[0]
    slope = CubicSpline(grid, heights, bc_type="natural")(np.interp(at, c[order], ranks), 1)
    return np.clip(at + slope, 0, 1)


@pytest.mark.parametrize("seed", range(3))
def test_spline_comes_near_the_fit_to_sorted_examples(seed):
    c, a, data = draw(seed, 3000)
    calibrator = Spline()
    parameters = fit(calibrator, [data])
    at = np.linspace(0.15, 0.95, 50)
    found = calibrator.confidence(logits_with(at), parameters)
    np.testing.assert_allclose(found, spline_by_ranks(c, a, at), atol=0.01)
    assert np.abs(found.numpy() - at).max() > 0.1
    np.testing.assert_allclose(found, at**2, atol=0.1)  # what the labels were drawn from


def test_spline_survives_confidences_that_all_fall_into_one_bin():
    rng = np.random.default_rng(0)
    data = (logits_with(1 - 1e-5 * rng.random(200)), torch.tensor((rng.random(200) < 0.2) * 1))
    calibrator = Spline()
    found = calibrator.confidence(data[0], fit(calibrator, [data]))
    np.testing.assert_allclose(found, (data[1] == 0).double().mean(), atol=1e-3)


@pytest.mark.parametrize(("calibrator", "numbers"), [
    (HistogramBinning(), 30), (Isotonic(), 3000), (Bbq(), 1440), (Spline(bins=10), 30),
])  # fmt: skip
def test_numbers_sent_in_the_one_round(calibrator, numbers):
    assert calibrator.max_steps == 1
    sums = calibrator.statistics(*example(), calibrator.start(16))
    assert sum(value.numel() for value in sums.values()) == numbers
