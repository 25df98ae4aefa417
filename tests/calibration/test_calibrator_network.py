"""Network calibrators: the example, pooled full-batch training by torch.optim, derivatives."""

import numpy as np
import pytest
import torch

from fl2ora.calibration.calibrators.base import FitState
from fl2ora.calibration.calibrators.fitting import fit
from fl2ora.calibration.calibrators.order_preserving import OrderPreserving, rescale_gaps
from fl2ora.calibration.calibrators.parametrised_temperature import ParametrisedTemperature

torch.set_num_threads(1)

BUILD = {
    "parametrised_temperature": lambda **options: ParametrisedTemperature(**options),
    "order_preserving": lambda **options: OrderPreserving(**options),
}


def draw(seed, n, k):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, k)) * 4
    p = np.exp(z / 3) / np.exp(z / 3).sum(1, keepdims=True)
    return torch.tensor(z), torch.tensor((p.cumsum(1) > rng.random((n, 1))).argmax(1))


def network(x, parameters):
    """Return the ReLU network written out layer by layer."""
    layers = len(parameters) // 2
    for i in range(1, layers):
        x = x @ parameters[f"weight{i}"].T + parameters[f"bias{i}"]
        x = x * (x > 0)
    return x @ parameters[f"weight{layers}"].T + parameters[f"bias{layers}"]


def log_probabilities(name, z, parameters):
    """Return the calibrated log-probabilities of every row by a loop over rows and classes."""
    rows = []
    for row in z:
        downwards = torch.sort(row, descending=True).values
        if name == "parametrised_temperature":
            temperature = network(downwards[:10], parameters).abs()
            rows.append(torch.log_softmax(row / temperature, dim=0))
            continue
        slopes = torch.log1p(torch.exp(network(downwards - downwards[0], parameters)))
        place = [int((row > value).sum()) for value in row]
        gaps = [downwards[j] - downwards[j + 1] for j in range(len(row) - 1)]
        parts = [g * m for g, m in zip(gaps, slopes, strict=True)]
        nothing = downwards[0] * 0
        rows.append(torch.stack([sum(parts[i:], nothing) for i in place]).log_softmax(dim=0))
    return torch.stack(rows)


def mean_loss(name, log_p, labels):
    if name == "order_preserving":
        return -log_p[torch.arange(len(labels)), labels].mean()
    return ((log_p.exp() - torch.eye(log_p.shape[1])[labels]) ** 2).sum(1).mean()


def shaken(calibrator, k, seed=0):
    """Return the start with noise on every parameter, so that no derivative is 0 by design."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: value + 0.1 * torch.randn(value.shape, generator=generator, dtype=torch.float64)
        for name, value in calibrator.start(k).parameters.items()
    }


def test_order_preserving_map_of_the_example():
    slopes = torch.tensor([[0.9, 0.4]])
    # sorted 5, 2, 1: gaps 3 and 1, so 3 * .9 + 1 * .4, then 1 * .4, then 0
    found = rescale_gaps(torch.tensor([[2.0, 5.0, 1.0]]), slopes)
    torch.testing.assert_close(found, torch.tensor([[0.4, 3.1, 0.0]]))


def test_order_preserving_map_keeps_ties():
    found = rescale_gaps(torch.tensor([[1.0, 3.0, 1.0, 3.0]]), torch.tensor([[2.0, 0.5, 7.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.0, 1.0, 0.0, 1.0]]))


@pytest.mark.parametrize("name", BUILD)
@pytest.mark.parametrize("k", [2, 4, 12])
def test_apply_is_the_network_written_out(name, k):
    calibrator = BUILD[name]()
    z, _ = draw(0, 6, k)
    parameters = shaken(calibrator, k)
    wanted = log_probabilities(name, z, parameters)
    torch.testing.assert_close(calibrator.apply(z, parameters), wanted, rtol=1e-9, atol=1e-9)
    assert float((wanted - z.log_softmax(1)).abs().max()) > 0.01


@pytest.mark.parametrize("name", BUILD)
def test_gradient_is_that_of_the_summed_loss(name):
    calibrator = BUILD[name](hidden=3)
    z, y = draw(1, 8, 4)
    parameters = shaken(calibrator, 4)
    sums = calibrator.statistics(z, y, FitState(parameters, {}, False))
    slopes, step = [], 1e-6
    for key in sorted(parameters):
        for i in range(parameters[key].numel()):
            moved = []
            for sign in (1, -1):
                changed = {**parameters, key: parameters[key].clone()}
                changed[key].view(-1)[i] += sign * step
                moved.append(8 * mean_loss(name, log_probabilities(name, z, changed), y))
            slopes.append(float(moved[0] - moved[1]) / (2 * step))
    np.testing.assert_allclose(sums["gradient"], slopes, atol=1e-6)
    assert np.abs(slopes).max() > 0.01


@pytest.mark.parametrize("name", BUILD)
def test_fit_is_full_batch_adam_on_the_pooled_data(name):
    z, y = draw(2, 40, 4)
    calibrator = BUILD[name](hidden=4, steps=15, learning_rate=0.01)
    leaves = {k: v.clone().requires_grad_() for k, v in calibrator.start(4).parameters.items()}
    optimiser = torch.optim.Adam(leaves.values(), lr=0.01)
    best, best_loss = None, float("inf")
    for _ in range(15):
        optimiser.zero_grad()
        loss = mean_loss(name, log_probabilities(name, z, leaves), y)
        if loss.item() < best_loss:
            best, best_loss = {k: v.detach().clone() for k, v in leaves.items()}, loss.item()
        loss.backward()
        optimiser.step()
    found = fit(calibrator, [(z[:10], y[:10]), (z[10:], y[10:])])
    for key, value in best.items():
        torch.testing.assert_close(found[key], value, rtol=1e-6, atol=1e-7)
    assert any(float((best[k] - v).abs().max()) > 0.01
               for k, v in calibrator.start(4).parameters.items())  # fmt: skip


@pytest.mark.parametrize("name", BUILD)
def test_fit_returns_the_best_point_it_saw(name):
    z, y = draw(3, 60, 4)
    wild = BUILD[name](steps=30, learning_rate=5.0)
    fitted = mean_loss(name, wild.apply(z, fit(wild, [(z, y)])), y)
    assert float(fitted) <= float(mean_loss(name, z.log_softmax(1), y)) + 1e-12


@pytest.mark.parametrize("name", BUILD)
def test_seed_decides_the_hidden_weights(name):
    one, same, other = (BUILD[name](seed=s).start(5).parameters for s in (3, 3, 4))
    assert torch.equal(one["weight1"], same["weight1"])
    assert not torch.equal(one["weight1"], other["weight1"])


@pytest.mark.parametrize("name", BUILD)
def test_fit_works_in_inference_mode(name):
    z, y = draw(4, 20, 3)
    calibrator = BUILD[name](steps=3)
    wanted = fit(calibrator, [(z, y)])
    with torch.inference_mode():
        found = fit(calibrator, [(z.clone(), y.clone())])
        calibrator.apply(z, found)
    for key, value in wanted.items():
        assert torch.equal(found[key], value)


def test_temperature_of_zero_is_cut_to_a_positive_one():
    calibrator = ParametrisedTemperature()
    parameters = dict(calibrator.start(3).parameters)
    parameters["bias3"] = torch.zeros(1, dtype=torch.float64)
    applied = calibrator.apply(torch.tensor([[1.0, 2.0, 0.5]]), parameters)
    assert torch.isfinite(applied).all()
    assert applied.exp().tolist() == [[0, 1, 0]]


def test_parametrised_temperature_depends_on_the_example_and_on_the_largest_logits_only():
    calibrator = ParametrisedTemperature(top=2)
    parameters = shaken(calibrator, 4, seed=1)
    rows = torch.tensor([[9.0, 7, 0, 1], [9, 7, 2, 3], [4, 1, 0, 1]])
    applied = calibrator.apply(rows, parameters)
    temperatures = (rows[:, 0] - rows[:, 1]) / (applied[:, 0] - applied[:, 1])
    assert float(temperatures[0]) == pytest.approx(float(temperatures[1]), rel=1e-9)
    assert abs(float(temperatures[2] / temperatures[0]) - 1) > 1e-3
