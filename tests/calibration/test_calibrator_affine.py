"""Vector, matrix and Dirichlet scaling against scipy, finite differences and closed forms."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp

from fl2ora.calibration.calibrators import _descent
from fl2ora.calibration.calibrators.base import FitState
from fl2ora.calibration.calibrators.dirichlet import Dirichlet
from fl2ora.calibration.calibrators.files import build_calibrator
from fl2ora.calibration.calibrators.fitting import fit
from fl2ora.calibration.calibrators.matrix import Matrix
from fl2ora.calibration.calibrators.vector import Vector

torch.set_num_threads(1)


def draw(seed, n, k, offset=0.0):
    """Return logits and labels drawn from a skewed map of them, so that a bias is needed."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, k)) * 3 + offset
    p = np.exp(log_softmax(z / 2 + np.linspace(-1, 1, k), axis=1))
    return torch.tensor(z), torch.tensor((p.cumsum(1) > rng.random((n, 1))).argmax(1))


def scores_of(name, z, theta, k):
    """Return the affine map, written out with numpy."""
    if name == "vector":
        return z * theta[:k] + theta[k:]
    x = log_softmax(z, axis=1) if name == "dirichlet" else z
    return x @ theta[: k * k].reshape(k, k).T + theta[k * k :]


def loss_of(name, z, y, theta, k):
    scores = scores_of(name, z, theta, k)
    return float((logsumexp(scores, axis=1) - scores[np.arange(len(y)), y]).sum())


def slopes_of(name, z, y, theta, k):
    """Return the gradient of ``loss_of``."""
    residuals = np.exp(log_softmax(scores_of(name, z, theta, k), axis=1)) - np.eye(k)[y]
    x = log_softmax(z, axis=1) if name == "dirichlet" else z
    weight = (residuals * x).sum(0) if name == "vector" else (residuals.T @ x).ravel()
    return np.concatenate([weight, residuals.sum(0)])


def penalty_of(name, theta, k, strength):
    if name == "vector":
        return strength / 2 * (((theta[:k] - 1) ** 2).sum() + (theta[k:] ** 2).sum())
    weight, bias = theta[: k * k].reshape(k, k), theta[k * k :]
    if name == "matrix":
        return strength / 2 * (((weight - np.eye(k)) ** 2).sum() + (bias**2).sum())
    off = (weight**2).sum() - (np.diag(weight) ** 2).sum()
    return strength * off / (k * (k - 1)) + strength * (bias**2).sum() / k


def build(name, strength, **options):
    if name == "dirichlet":
        return Dirichlet(off_diagonal=strength, intercept=strength, **options)
    return {"vector": Vector, "matrix": Matrix}[name](ridge=strength, **options)


def flat(parameters):
    return np.concatenate([parameters["weight"].numpy().ravel(), parameters["bias"].numpy()])


def state_at(theta, k, name):
    weight = torch.tensor(theta[:-k]).reshape((k,) if name == "vector" else (k, k))
    return FitState({"weight": weight, "bias": torch.tensor(theta[-k:])}, {}, False)


@pytest.mark.parametrize("name", ["vector", "matrix", "dirichlet"])
@pytest.mark.parametrize("k", [2, 4])
def test_sums_are_the_loss_and_its_derivatives(name, k):
    z, y = draw(0, 12, k)
    size = 2 * k if name == "vector" else k * k + k
    theta = np.random.default_rng(1).normal(size=size) * 0.5
    calibrator = build(name, 0.0)
    sums = calibrator.statistics(z, y, state_at(theta, k, name))

    def loss(t):
        return loss_of(name, z.numpy(), y.numpy(), t, k)

    def gradient(t):
        return calibrator.statistics(z, y, state_at(t, k, name))["gradient"].numpy()

    step = 1e-5
    units = np.eye(size) * step
    slopes = [(loss(theta + u) - loss(theta - u)) / (2 * step) for u in units]
    bends = [(gradient(theta + u) - gradient(theta - u)) / (2 * step) for u in units]
    assert float(sums["loss"]) == pytest.approx(loss(theta), rel=1e-12)
    np.testing.assert_allclose(sums["gradient"], slopes, atol=1e-6)
    np.testing.assert_allclose(sums["hessian"], bends, atol=1e-6)


@pytest.mark.parametrize("name", ["vector", "matrix", "dirichlet"])
@pytest.mark.parametrize("solver", ["newton", "lbfgs"])
@pytest.mark.parametrize(("strength", "offset"), [(1e-4, 0.0), (1e-2, 0.0), (1e-3, 5.0)])
def test_fit_agrees_with_scipy(name, solver, strength, offset):
    k = 4
    z, y = draw(2, 300, k, offset)
    calibrator = build(name, strength, solver=solver, max_steps=2000)

    def objective(t):
        value = loss_of(name, z.numpy(), y.numpy(), t, k) / 300
        return value + penalty_of(name, t, k, strength)

    start = np.concatenate([(np.ones(k) if name == "vector" else np.eye(k).ravel()), np.zeros(k)])

    def slopes(t):
        units = np.eye(len(t)) * 1e-3  # central differences of a quadratic are exact
        penalty = [
            (penalty_of(name, t + u, k, strength) - penalty_of(name, t - u, k, strength)) / 2e-3
            for u in units
        ]
        return slopes_of(name, z.numpy(), y.numpy(), t, k) / 300 + np.array(penalty)

    options = {"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-9}
    found = minimize(objective, start, jac=slopes, method="L-BFGS-B", options=options)
    parameters = fit(calibrator, [(z, y)])
    ours = flat(parameters)
    assert objective(ours) <= found.fun + 1e-9
    assert objective(start) > found.fun + 0.01
    applied = calibrator.apply(z, parameters)
    wanted = log_softmax(scores_of(name, z.numpy(), found.x, k), axis=1)
    np.testing.assert_allclose(applied, wanted, atol=2e-3)
    gap = log_softmax(scores_of(name, z.numpy(), ours, k), axis=1)
    np.testing.assert_allclose(applied, gap, atol=1e-10)


def test_vector_without_ridge_is_maximum_likelihood():
    k = 3
    z, y = draw(3, 400, k)
    parameters = fit(Vector(ridge=0), [(z, y)])
    found = minimize(
        lambda t: loss_of("vector", z.numpy(), y.numpy(), t, k) / 400,
        np.concatenate([np.ones(k), np.zeros(k)]),
        method="BFGS",
        options={"gtol": 1e-8},
    )
    np.testing.assert_allclose(parameters["weight"], found.x[:k], atol=1e-4)
    bias = found.x[k:] - found.x[k:].mean()  # only differences of offsets matter
    ours = parameters["bias"] - parameters["bias"].mean()
    np.testing.assert_allclose(ours, bias, atol=1e-4)


@pytest.mark.parametrize("spec", ["vector", "matrix", "vector(solver='lbfgs')"])
def test_a_class_absent_from_the_data_keeps_finite_parameters(spec):
    z, y = draw(4, 200, 4)
    present = y != 2
    parameters = fit(build_calibrator(spec), [(z[present], y[present])])
    assert all(torch.isfinite(value).all() for value in parameters.values())
    assert float(parameters["bias"].abs().max()) < 10
    assert int(parameters["bias"].argmin()) == 2


def test_newton_is_chosen_up_to_256_parameters():
    for calibrator, classes, newton in [
        (Vector(), 128, True), (Vector(), 129, False), (Matrix(), 15, True), (Matrix(), 16, False),
        (Matrix(solver="newton"), 16, True), (Vector(solver="lbfgs"), 2, False),
    ]:  # fmt: skip
        logits, labels = torch.zeros(1, classes), torch.zeros(1, dtype=torch.int64)
        sums = calibrator.statistics(logits, labels, calibrator.start(classes))
        assert ("hessian" in sums) is newton


def test_dirichlet_does_not_depend_on_a_shift_of_a_row():
    z, y = draw(5, 100, 3)
    shifted = z + torch.linspace(-50, 50, 100)[:, None].double()
    one, two = fit(Dirichlet(), [(z, y)]), fit(Dirichlet(), [(shifted, y)])
    torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-7)


def test_strong_penalties_hold_the_identity_and_the_diagonal():
    z, y = draw(6, 100, 3)
    parameters = fit(Matrix(ridge=1e6), [(z, y)])
    np.testing.assert_allclose(parameters["weight"], np.eye(3), atol=1e-5)
    parameters = fit(Dirichlet(off_diagonal=1e6, intercept=1e6), [(z, y)])
    off = parameters["weight"] - torch.diag(parameters["weight"].diag())
    assert float(off.abs().max()) < 1e-5
    assert float(parameters["bias"].abs().max()) < 1e-5
    assert float((parameters["weight"].diag() - 1).abs().min()) > 0.1  # the diagonal is free


@pytest.mark.parametrize("direction", ["newton", "lbfgs"])
def test_descent_solves_a_badly_scaled_quadratic(direction):
    scales = torch.tensor([1.0, 10.0, 1000.0], dtype=torch.float64)
    target = torch.tensor([3.0, -2.0, 0.5], dtype=torch.float64)
    point = torch.zeros(3, dtype=torch.float64)
    solver, rounds, done = _descent.begin(point), 0, False

    def towards(state):
        if direction == "lbfgs":
            return _descent.quasi_newton_direction(state)
        return _descent.newton_direction(torch.diag(scales), state["gradient"])

    while not done:
        gradient = scales * (point - target)
        value = float((scales * (point - target) ** 2).sum() / 2)
        found = _descent.Evaluation(point, value, gradient, float(gradient.abs().max()))
        point, solver, done, _ = _descent.advance(solver, found, towards, 1e-8, 100)
        rounds += 1
    torch.testing.assert_close(point, target, atol=1e-8, rtol=0)
    assert rounds == 2 if direction == "newton" else rounds < 30


def test_quasi_newton_direction_is_the_updated_inverse_hessian_times_the_gradient():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(4, 4))
    moves = rng.normal(size=(3, 4))
    turns = moves @ (root @ root.T + np.eye(4))
    gradient = rng.normal(size=4)
    inverse = np.eye(4) * (moves[-1] @ turns[-1]) / (turns[-1] @ turns[-1])
    for move, turn in zip(moves, turns, strict=True):
        left = np.eye(4) - np.outer(move, turn) / (move @ turn)
        inverse = left @ inverse @ left.T + np.outer(move, move) / (move @ turn)
    solver = {"moves": moves, "turns": turns, "gradient": gradient}
    found = _descent.quasi_newton_direction({k: torch.tensor(v) for k, v in solver.items()})
    np.testing.assert_allclose(found, -inverse @ gradient, rtol=1e-10)


def test_newton_direction_ignores_directions_without_curvature():
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    hessian = turn @ np.diag([4.0, 0.5, 0.0]) @ turn.T
    gradient = turn @ np.array([8.0, 1.0, 1e-3])
    found = _descent.newton_direction(torch.tensor(hessian), torch.tensor(gradient))
    np.testing.assert_allclose(found, turn @ np.array([-2.0, -2.0, 0.0]), atol=1e-10)


def test_descent_shortens_a_step_that_overshoots_and_returns_the_best_point_at_the_end():
    start = torch.tensor([1.0], dtype=torch.float64)
    found = _descent.Evaluation(start, 1.0, torch.ones_like(start), 1.0)
    point, solver, done, _ = _descent.advance(
        _descent.begin(start), found, lambda s: -8 * s["gradient"], 1e-8, 3
    )
    assert not done
    assert float(point) == -7
    worse = _descent.Evaluation(point, 9.0, torch.ones_like(start), 1.0)
    point, solver, done, _ = _descent.advance(solver, worse, lambda s: -s["gradient"], 1e-8, 3)
    # parabola through value 1, slope -8 and value 9 at length 1: its minimum is at 8 / 32
    assert not done
    assert float(point) == 1 - 8 * 8 / 32
    worse = _descent.Evaluation(point, 9.0, torch.ones_like(start), 1.0)
    point, _, done, _ = _descent.advance(solver, worse, lambda s: -s["gradient"], 1e-8, 3)
    assert done
    assert float(point) == 1


def test_descent_refuses_a_point_whose_loss_is_not_a_number():
    start = torch.tensor([1.0], dtype=torch.float64)
    found = _descent.Evaluation(start, 1.0, torch.ones_like(start), 1.0)
    point, solver, *_ = _descent.advance(
        _descent.begin(start), found, lambda s: -s["gradient"], 1e-8, 9
    )
    broken = _descent.Evaluation(point, float("nan"), torch.ones_like(start), 1.0)
    point, _, done, _ = _descent.advance(solver, broken, lambda s: -s["gradient"], 1e-8, 9)
    assert not done
    assert 0 < float(point) < 1
