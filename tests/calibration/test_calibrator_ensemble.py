"""Ensemble temperature scaling against closed forms and scipy."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import softmax

from fl2ora.calibration.calibrators.base import FitState
from fl2ora.calibration.calibrators.ensemble import Ensemble, simplex_minimum
from fl2ora.calibration.calibrators.fitting import add_sums, fit

torch.set_num_threads(1)

Z = np.array([[4, 1, 0], [3, 3.5, 0], [5, 1, 2], [0, 4, 1], [2, 0, 1], [1, 1, 3], [0, 2, 5]])
Y = np.array([0, 0, 2, 1, 0, 2, 1])
T = 2.361482
EX_C = [(torch.tensor(Z[:3]), torch.tensor(Y[:3])), (torch.tensor(Z[3:]), torch.tensor(Y[3:]))]


def members(temperature, z=Z):
    return np.stack([softmax(z / temperature, 1), softmax(z, 1), np.full_like(z, 1 / z.shape[1])])


def on_simplex(objective):
    """Minimise over the simplex from several starts by SLSQP."""
    found = [
        minimize(
            objective,
            start,
            method="SLSQP",
            bounds=[(0, 1)] * 3,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        for start in ([1 / 3] * 3, [0.8, 0.1, 0.1], [0.1, 0.1, 0.8])
    ]
    return min(found, key=lambda f: f.fun)


def test_squared_error_sums_and_weights_of_the_example():
    calibrator = Ensemble()
    beta = torch.tensor(1 / T, dtype=torch.float64)
    state = FitState({"inverse_temperature": beta, "weights": torch.ones(3) / 3}, {}, False)
    sums = add_sums(calibrator.statistics(*data, state) for data in EX_C)
    p = members(T)
    np.testing.assert_allclose(sums["products"], np.einsum("ink,jnk->ij", p, p), rtol=1e-12)
    np.testing.assert_allclose(sums["hits"], p[:, np.arange(7), Y].sum(1), rtol=1e-12)
    np.testing.assert_allclose(sums["hits"], [3.173366, 3.789017, 2.333333], atol=5e-7)
    parameters = fit(calibrator, EX_C)
    np.testing.assert_allclose(parameters["weights"], [0.333675, 0.317022, 0.349303], atol=5e-6)
    assert 1 / float(parameters["inverse_temperature"]) == pytest.approx(T, abs=1e-5)
    onehot = np.eye(3)[Y]
    found = on_simplex(lambda w: ((np.tensordot(w, p, 1) - onehot) ** 2).sum())
    np.testing.assert_allclose(parameters["weights"], found.x, atol=1e-4)


def test_one_step_of_expectation_maximisation_of_the_example():
    weights = fit(Ensemble(objective="ce", weight_steps=1), EX_C)["weights"]
    of_label = members(T)[:, np.arange(7), Y]
    np.testing.assert_allclose(weights, (of_label / of_label.sum(0)).mean(1), atol=1e-6)
    np.testing.assert_allclose(weights, [0.341396, 0.340377, 0.318226], atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_cross_entropy_weights_reach_the_optimum(seed):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(200, 4)) * 4
    y = np.where(rng.random(200) < 0.3, rng.integers(0, 4, 200), z.argmax(1))
    calibrator = Ensemble(objective="ce")
    parameters = fit(calibrator, [(torch.tensor(z), torch.tensor(y))])
    of_label = members(1 / float(parameters["inverse_temperature"]), z)[:, np.arange(200), y]
    found = on_simplex(lambda w: -np.log(np.clip(w @ of_label, 1e-300, None)).sum())
    ours = -np.log(parameters["weights"].numpy() @ of_label).sum()
    assert ours <= found.fun + 1e-6


@pytest.mark.parametrize("seed", range(12))
def test_simplex_minimum_is_the_quadratic_programme(seed):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(3, 3))
    products, hits = root @ root.T + 0.1 * np.eye(3), rng.normal(size=3) * 2
    weights = simplex_minimum(torch.tensor(products), torch.tensor(hits)).numpy()
    assert weights.sum() == pytest.approx(1)
    assert (weights >= 0).all()
    found = on_simplex(lambda w: w @ products @ w - 2 * hits @ w)
    np.testing.assert_allclose(weights, found.x, atol=1e-5)


def test_simplex_minimum_with_equal_members_splits_between_none_wrongly():
    products = torch.ones(3, 3, dtype=torch.float64)
    weights = simplex_minimum(products, torch.ones(3, dtype=torch.float64))
    assert float(weights.sum()) == pytest.approx(1)
    assert (weights >= 0).all()


def test_apply_is_the_mixture():
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    beta = torch.tensor(1 / T, dtype=torch.float64)
    applied = Ensemble().apply(torch.tensor(Z), {"inverse_temperature": beta, "weights": weights})
    wanted = np.tensordot([0.2, 0.5, 0.3], members(T), 1)
    np.testing.assert_allclose(applied.exp(), wanted, rtol=1e-12)


def test_weights_wait_for_the_temperature():
    calibrator = Ensemble()
    state, phases = calibrator.start(3), []
    while not state.done:
        phases.append(float(state.solver["scaled"]))
        sums = add_sums(calibrator.statistics(*data, state) for data in EX_C)
        assert sum(value.numel() for value in sums.values()) == 16
        state = calibrator.update(state, sums)
    assert phases == [0, 0, 0, 0]  # the sums at the final temperature already give the weights


def test_sums_at_a_rejected_temperature_are_not_used_for_the_weights():
    calibrator = Ensemble()
    start = calibrator.start(3)

    def sums(state):
        return add_sums(calibrator.statistics(*data, state) for data in EX_C)

    tried = calibrator.update(start, sums(start))
    last = {**tried.solver, "rounds": torch.tensor(19.0, dtype=torch.float64)}
    rising = {**sums(tried), "loss": torch.tensor(1e9, dtype=torch.float64)}
    back = calibrator.update(FitState(tried.parameters, last, False), rising)
    assert not back.done
    assert float(back.parameters["inverse_temperature"]) == 1
    ended = calibrator.update(back, sums(back))
    assert ended.done
    p = members(1.0)
    found = ended.parameters["weights"].numpy()
    onehot = np.eye(3)[Y]
    best = on_simplex(lambda w: ((np.tensordot(w, p, 1) - onehot) ** 2).sum())
    assert ((np.tensordot(found, p, 1) - onehot) ** 2).sum() <= best.fun + 1e-9
