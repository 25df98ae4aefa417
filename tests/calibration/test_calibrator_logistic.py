"""Beta calibration and Platt scaling of the top-1 confidence against scipy."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import expit, logsumexp

from fl2ora.calibration.calibrators.base import FitState
from fl2ora.calibration.calibrators.beta import Beta
from fl2ora.calibration.calibrators.fitting import fit
from fl2ora.calibration.calibrators.platt import Platt

torch.set_num_threads(1)


def draw(seed, n, k=5):
    """Return logits and labels that are right with a probability that bends with confidence."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, k)) * 3
    c = np.exp(z.max(1) - logsumexp(z, axis=1))
    right = rng.random(n) < 0.15 + 0.7 * c**3
    y = np.where(right, z.argmax(1), (z.argmax(1) + 1) % k)
    return torch.tensor(z), torch.tensor(y)


def inputs(calibrator, z):
    """Return ln c, -ln(1 - c) and 1 by scipy; Platt's one input is the sum of the first two."""
    z = np.sort(z.numpy(), axis=1)
    total = logsumexp(z, axis=1)
    first, second = z[:, -1] - total, total - logsumexp(z[:, :-1], axis=1)
    ones = np.ones(len(z))
    columns = [first + second, ones] if isinstance(calibrator, Platt) else [first, second, ones]
    return np.stack(columns, axis=1)


def objective_of(calibrator, data, smooth):
    z, y = data
    x = inputs(calibrator, z)
    hits = (z.argmax(1) == y).numpy()
    high, low = 1.0, 0.0
    if smooth:
        high, low = (hits.sum() + 1) / (hits.sum() + 2), 1 / ((~hits).sum() + 2)
    targets = np.where(hits, high, low)
    return lambda t: float((np.logaddexp(0, x @ t) - targets * (x @ t)).mean())


def reference(calibrator, data, smooth):
    size = 2 if isinstance(calibrator, Platt) else 3
    start = np.array([1.0, 0.0] if size == 2 else [1.0, 1.0, 0.0])
    bounds = [(0, None)] * (size - 1) + [(None, None)]
    return minimize(
        objective_of(calibrator, data, smooth), start, method="L-BFGS-B", bounds=bounds,
        options={"ftol": 1e-16, "gtol": 1e-10, "maxiter": 5000},
    )  # fmt: skip


@pytest.mark.parametrize("kind", [Beta, Platt])
@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_fit_agrees_with_scipy(kind, smooth, seed):
    data = draw(seed, 400)
    calibrator = kind(smooth=smooth)
    parameters = fit(calibrator, [data])
    found = reference(calibrator, data, smooth)
    assert objective_of(calibrator, data, smooth)(parameters["coefficients"].numpy()) <= (
        found.fun + 1e-10
    )
    np.testing.assert_allclose(parameters["coefficients"], found.x, atol=1e-3)
    confidence = calibrator.confidence(data[0], parameters)
    wanted = expit(inputs(calibrator, data[0]) @ found.x)
    np.testing.assert_allclose(confidence, wanted, atol=1e-4)


def test_coefficients_that_would_be_negative_stay_at_zero_as_with_bounds():
    rng = np.random.default_rng(0)
    z = torch.tensor(rng.normal(size=(500, 4)) * 2)
    c = z.softmax(1).amax(1).numpy()
    right = rng.random(500) < 0.9 - 0.6 * c  # the more confident, the less often right
    y = torch.tensor(np.where(right, z.argmax(1), z.argmin(1)))
    for calibrator in (Beta(), Platt()):
        coefficients = fit(calibrator, [(z, y)])["coefficients"].numpy()
        assert coefficients[:-1].min() == 0
        np.testing.assert_allclose(coefficients, reference(calibrator, (z, y), True).x, atol=1e-3)


def test_beta_finds_the_curve_the_labels_were_drawn_from():
    rng = np.random.default_rng(1)
    z = torch.tensor(rng.normal(size=(20000, 2)) * 4)
    truth = np.array([0.5, 0.8, -0.4])
    right = rng.random(20000) < expit(inputs(Beta(), z) @ truth)
    y = torch.tensor(np.where(right, z.argmax(1), z.argmin(1)))
    parameters = fit(Beta(), [(z, y)])
    found = Beta().confidence(z, parameters)
    np.testing.assert_allclose(found, expit(inputs(Beta(), z) @ truth), atol=0.03)


@pytest.mark.parametrize("calibrator", [Beta(), Platt()])
def test_sums_are_the_loss_and_its_derivatives(calibrator):
    data = draw(3, 40)
    theta = np.array([0.7, 1.3, -0.2] if isinstance(calibrator, Beta) else [0.7, -0.2])

    def sums(t):
        state = FitState({"coefficients": torch.tensor(t)}, {}, False)
        return calibrator.statistics(*data, state)

    plain = objective_of(calibrator, data, smooth=False)
    here = sums(theta)
    value = float(here["softplus"]) - float(here["positive"].numpy() @ theta)
    assert value == pytest.approx(40 * plain(theta), rel=1e-10)
    step = 1e-5
    units = np.eye(len(theta)) * step
    slopes = [40 * (plain(theta + u) - plain(theta - u)) / (2 * step) for u in units]
    np.testing.assert_allclose(here["expected"] - here["positive"], slopes, atol=1e-6)
    bends = [
        (sums(theta + u)["expected"] - sums(theta - u)["expected"]).numpy() / (2 * step)
        for u in units
    ]
    np.testing.assert_allclose(here["hessian"], bends, atol=1e-6)
    both = inputs(calibrator, data[0]).sum(0)
    np.testing.assert_allclose(here["positive"] + here["negative"], both, rtol=1e-10)


@pytest.mark.parametrize("kind", [Beta, Platt])
@pytest.mark.parametrize("right", [True, False])
def test_smoothed_targets_are_met_where_all_predictions_are_right_or_wrong(kind, right):
    z, _ = draw(4, 80)
    y = z.argmax(1) if right else z.argmin(1)
    calibrator = kind()
    parameters = fit(calibrator, [(z, y)])
    target = 81 / 82 if right else 1 / 82
    np.testing.assert_allclose(calibrator.confidence(z, parameters), target, atol=1e-6)


@pytest.mark.parametrize("kind", [Beta, Platt])
def test_equal_confidences_are_mapped_to_their_accuracy(kind):
    z = torch.tensor([[2.0, 0.0, 0.0]]).repeat(10, 1)
    y = torch.tensor([0] * 7 + [1] * 3)
    calibrator = kind(smooth=False)
    found = calibrator.confidence(z, fit(calibrator, [(z, y)]))
    np.testing.assert_allclose(found, 0.7, atol=1e-6)


@pytest.mark.parametrize("kind", [Beta, Platt])
def test_map_never_decreases(kind):
    data = draw(5, 200)
    calibrator = kind()
    parameters = fit(calibrator, [data])
    ladder = torch.stack([torch.linspace(0, 60, 200), torch.zeros(200)], dim=1)
    found = calibrator.confidence(ladder, parameters)
    assert (found.diff() >= 0).all()
    assert float(found[-1] - found[0]) > 0.1


@pytest.mark.parametrize(("calibrator", "numbers"), [(Beta(), 20), (Platt(), 12)])
def test_numbers_sent_a_round(calibrator, numbers):
    sums = calibrator.statistics(*draw(6, 5), calibrator.start(5))
    assert sum(value.numel() for value in sums.values()) == numbers
