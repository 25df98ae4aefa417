"""Temperature scaling: known numbers of Ex-C, other optimisers, finite differences, edges."""

import warnings

import numpy as np
import pytest
import torch
from netcal.scaling import TemperatureScaling
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from fl2ora.calibration.calibrators.base import CalibrationContext, FitState
from fl2ora.calibration.calibrators.fitting import add_sums, fit
from fl2ora.calibration.calibrators.temperature import Temperature
from fl2ora.calibration.calibrators.zero_shot_temperature import ZeroShotTemperature

torch.set_num_threads(1)

CLIENT_0 = (torch.tensor([[4, 1, 0], [3, 3.5, 0], [5, 1, 2]]), torch.tensor([0, 0, 2]))
CLIENT_1 = (
    torch.tensor([[0.0, 4, 1], [2, 0, 1], [1, 1, 3], [0, 2, 5]]),
    torch.tensor([1, 0, 2, 1]),
)
EX_C = [CLIENT_0, CLIENT_1]


def state_at(beta):
    parameters = {"inverse_temperature": torch.tensor(beta, dtype=torch.float64)}
    return FitState(parameters, Temperature().start(2).solver, False)


def sums_at(beta, clients):
    sums = add_sums(Temperature().statistics(*data, state_at(beta)) for data in clients)
    return [float(sums[name]) for name in ("loss", "slope", "curvature")]


def nll_of(clients, beta):
    """Return the summed negative log-likelihood by scipy."""
    z = np.concatenate([c[0].double().numpy() for c in clients])
    y = np.concatenate([c[1].numpy() for c in clients])
    return float((logsumexp(beta * z, axis=1) - beta * z[np.arange(len(y)), y]).sum())


def best_beta(clients):
    found = minimize_scalar(
        lambda b: nll_of(clients, b), bounds=(0.05, 20), method="bounded", options={"xatol": 1e-12}
    )
    return found.x


def draw(seed, n, k, scale):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, k)) * 4
    p = np.exp(z / scale - logsumexp(z / scale, axis=1, keepdims=True))
    y = (p.cumsum(1) > rng.random((n, 1))).argmax(1)
    return torch.tensor(z), torch.tensor(y)


def test_sums_of_the_example():
    assert sums_at(1.0, EX_C) == pytest.approx([7.892487, 4.600775, 3.856021], abs=5e-7)
    assert sums_at(1.0, [CLIENT_0]) == pytest.approx([4.124467, 2.83328, 1.557096], abs=5e-7)
    assert sums_at(1.0, [CLIENT_1]) == pytest.approx([3.76802, 1.767496, 2.298926], abs=5e-7)


@pytest.mark.parametrize("beta", [0.3, 0.4, 0.42, 0.45, 0.6, 1.0, 3.0])
def test_sums_are_the_loss_and_its_derivatives(beta):
    step = 1e-4
    low, here, high = (nll_of(EX_C, b) for b in (beta - step, beta, beta + step))
    loss, slope, curvature = sums_at(beta, EX_C)
    assert loss == pytest.approx(here, rel=1e-12)
    assert slope == pytest.approx((high - low) / (2 * step), abs=1e-6)
    assert curvature == pytest.approx((high - 2 * here + low) / step**2, abs=1e-5)


def test_grid_of_losses_of_the_example():
    losses = [sums_at(beta, EX_C)[0] for beta in (0.3, 0.4, 0.42, 0.45, 0.6)]
    wanted = [6.40643, 6.302487, 6.298855, 6.303406, 6.487671]
    assert losses == pytest.approx(wanted, abs=5e-7)


def test_newton_path_of_the_example():
    calibrator, path = Temperature(), []
    state = calibrator.start(3)
    while not state.done:
        path.append(float(state.parameters["inverse_temperature"]))
        sums = add_sums(calibrator.statistics(*data, state) for data in EX_C)
        state = calibrator.update(state, sums)
    # 1 - 4.600775 / 3.856021 = -0.1931 is not positive, so the first step is halved
    assert path == pytest.approx([1, 1 - 4.600775 / 3.856021 / 2, 0.423173, 0.423463], abs=1e-6)
    beta = float(state.parameters["inverse_temperature"])
    assert 1 / beta == pytest.approx(2.361482, abs=1e-5)
    assert beta == pytest.approx(best_beta(EX_C), abs=1e-6)
    assert nll_of(EX_C, beta) == pytest.approx(6.298775, abs=5e-7)


def test_local_fits_of_the_example_average_to_another_temperature():
    local = [1 / float(fit(Temperature(), [c])["inverse_temperature"]) for c in EX_C]
    assert local == pytest.approx([3.204911, 1.849702], abs=1e-5)
    assert local == pytest.approx([1 / best_beta([c]) for c in EX_C], abs=1e-5)
    mean = (3 * local[0] + 4 * local[1]) / 7
    assert mean == pytest.approx(2.430506, abs=1e-5)
    assert abs(mean - 1 / float(fit(Temperature(), EX_C)["inverse_temperature"])) > 0.05


@pytest.mark.parametrize(("seed", "scale"), [(0, 0.3), (1, 1.0), (2, 2.5), (3, 8.0)])
def test_fit_agrees_with_a_bounded_scalar_search(seed, scale):
    data = draw(seed, 300, 6, scale)
    beta = float(fit(Temperature(), [data])["inverse_temperature"])
    assert beta == pytest.approx(best_beta([data]), rel=1e-4)
    assert 1 / beta == pytest.approx(scale, rel=0.35)


def test_fit_agrees_with_netcal():
    logits, labels = draw(4, 2000, 3, 2.0)
    probabilities = logits.softmax(1).numpy()
    reference = TemperatureScaling()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # netcal calls deprecated pyro functions
        reference.fit(probabilities, labels.numpy())
    parameters = fit(Temperature(), [(logits, labels)])
    ours = Temperature().apply(logits, parameters).exp().numpy()
    np.testing.assert_allclose(ours, reference.transform(probabilities), atol=2e-3)
    assert np.abs(ours - probabilities).max() > 0.05


@pytest.mark.parametrize("margin", [0.01, 1.0, 30.0, 1e4])
def test_separable_data_stays_in_range_and_is_all_but_certain(margin):
    logits = margin * torch.eye(3).repeat(4, 1)
    labels = torch.arange(3).repeat(4)
    beta = float(fit(Temperature(), [(logits, labels)])["inverse_temperature"])
    assert 1 <= beta <= 20
    if margin == 0.01:
        assert beta == 20  # the slope never gets small: the clamp T = 0.05 holds
    else:
        assert nll_of([(logits, labels)], beta) / 12 < 1e-5


@pytest.mark.parametrize("scale", [0.1, 1.0, 100.0])
def test_data_wrong_throughout_ends_at_the_highest_temperature(scale):
    logits = scale * torch.eye(3).repeat(4, 1)
    labels = (torch.arange(3).repeat(4) + 1) % 3
    assert float(fit(Temperature(), [(logits, labels)])["inverse_temperature"]) == 1 / 20


def test_equal_logits_leave_the_temperature_alone():
    data = (torch.zeros(5, 3), torch.tensor([0, 1, 2, 0, 1]))
    assert float(fit(Temperature(), [data])["inverse_temperature"]) == 1


def test_a_step_that_raises_the_loss_is_halved():
    # One saturated wrong example: almost no curvature at 1, so the Newton step overshoots.
    logits = torch.tensor([[12.0, 0.0]] + [[3.0, 0.0]] * 30)
    labels = torch.tensor([1] + [0] * 29 + [1])
    calibrator, losses, betas = Temperature(), [], []
    state = calibrator.start(2)
    while not state.done:
        sums = calibrator.statistics(logits, labels, state)
        losses.append(float(sums["loss"]) / 31)
        betas.append(float(state.parameters["inverse_temperature"]))
        before, state = state, calibrator.update(state, sums)
        if losses[-1] > float(before.solver["base_loss"]):
            halved = (float(before.solver["base"]) + betas[-1]) / 2
            assert float(state.parameters["inverse_temperature"]) == pytest.approx(halved)
    assert float(state.parameters["inverse_temperature"]) == pytest.approx(
        best_beta([(logits, labels)]), rel=1e-4
    )


def test_a_rise_of_the_loss_is_never_accepted():
    calibrator = Temperature()
    state = calibrator.start(2)

    def sums(loss, slope, curvature):
        values = {"count": 1.0, "loss": loss, "slope": slope, "curvature": curvature}
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}

    state = calibrator.update(state, sums(1.0, -1.0, 0.5))  # to 1 + 2
    assert float(state.parameters["inverse_temperature"]) == 3
    state = calibrator.update(state, sums(1.5, 4.0, 1.0))  # worse: half the step
    assert float(state.parameters["inverse_temperature"]) == 2
    state = calibrator.update(state, sums(1.2, 4.0, 1.0))
    assert float(state.parameters["inverse_temperature"]) == 1.5
    state = calibrator.update(state, sums(0.9, 0.0, 1.0))
    assert state.done
    assert float(state.parameters["inverse_temperature"]) == 1.5


def test_the_last_round_returns_the_best_temperature_seen():
    calibrator = Temperature()
    calibrator.max_steps = 2
    state = calibrator.start(3)
    state = calibrator.update(state, calibrator.statistics(*CLIENT_0, state))
    trial = float(state.parameters["inverse_temperature"])
    assert trial < 1
    worse = {k: torch.tensor(1e9, dtype=torch.float64) for k in ("loss", "slope", "curvature")}
    kept = calibrator.update(state, {**worse, "count": torch.tensor(3.0)})
    assert kept.done
    assert float(kept.parameters["inverse_temperature"]) == 1
    taken = calibrator.update(state, calibrator.statistics(*CLIENT_0, state))
    assert taken.done
    assert float(taken.parameters["inverse_temperature"]) == trial


@pytest.mark.parametrize(("count", "done"), [(10.0, False), (1000.0, True)])
def test_the_slope_per_example_decides_the_end(count, done):
    calibrator = Temperature()
    values = {"count": count, "loss": count, "slope": 1e-4, "curvature": count}
    sums = {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
    assert calibrator.update(calibrator.start(2), sums).done is done


def test_a_constant_added_to_a_row_changes_nothing():
    logits, labels = draw(7, 40, 4, 2.0)
    shifted = logits + torch.linspace(-500, 500, 40)[:, None]
    one, two = (fit(Temperature(), [(z, labels)]) for z in (logits, shifted))
    torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)


def test_a_round_sends_four_numbers():
    sums = Temperature().statistics(*CLIENT_0, Temperature().start(3))
    assert sum(value.numel() for value in sums.values()) == 4


def test_zero_shot_temperature_is_fitted_on_zero_shot_logits_and_applied_to_tuned_ones():
    public, labels = draw(8, 300, 5, 2.0)
    calibrator = ZeroShotTemperature()
    assert calibrator.fit_needs == {"zero_shot_logits"}
    unused = torch.full_like(public, 7.0)
    context = CalibrationContext(zero_shot_logits=public)
    parameters = fit(calibrator, [(unused, labels)], [context])
    beta = best_beta([(public, labels)])
    assert float(parameters["inverse_temperature"]) == pytest.approx(beta, rel=1e-5)
    tuned = torch.tensor([[3.0, 1.0, 0.0]], dtype=torch.float64)  # another number of classes
    applied = calibrator.apply(tuned, parameters)
    wanted = beta * tuned.numpy() - logsumexp(beta * tuned.numpy())
    np.testing.assert_allclose(applied.numpy(), wanted, rtol=1e-5)


def test_zero_shot_temperature_without_zero_shot_logits_says_so():
    calibrator = ZeroShotTemperature()
    with pytest.raises(
        ValueError, match="zero_shot_temperature: expected a context with zero_shot"
    ):
        calibrator.statistics(*CLIENT_0, calibrator.start(3))


def test_a_known_zero_shot_temperature_needs_no_fit():
    calibrator = ZeroShotTemperature(temperature=2.0)
    assert calibrator.max_steps == 0
    assert calibrator.fit_needs == frozenset()
    parameters = fit(calibrator, EX_C)
    applied = calibrator.apply(CLIENT_0[0], parameters)
    torch.testing.assert_close(applied, (CLIENT_0[0].double() / 2).log_softmax(1))
