"""Fits in which not every client answers every round."""

import pytest
import torch

from fl2ora.calibration.calibrators.base import FitState
from fl2ora.calibration.calibrators.files import build_calibrator
from fl2ora.calibration.calibrators.fitting import add_sums, fit, fit_to_the_end

torch.set_num_threads(1)

SPECS = [
    "temperature",
    "ensemble",
    "ensemble(objective='ce')",
    "vector",
    "vector(solver='lbfgs')",
    "matrix",
    "matrix(solver='lbfgs')",
    "dirichlet",
    "beta",
    "platt",
    "parametrised_temperature(steps=150)",
    "order_preserving(steps=150)",
]


def ten_clients(k=4, n=60):
    """Return clients whose logits are 1.5 to 3 times too sharp."""
    found = []
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        logits = 3 * torch.randn(n, k, generator=generator, dtype=torch.float64)
        chances = (logits / (1.5 + seed / 6)).softmax(1)
        found.append((logits, torch.multinomial(chances, 1, generator=generator).squeeze(1)))
    return found


def fit_with(calibrator, clients, answers):
    """Fit to the clients that ``answers(step)`` names, and tell the calibrator of changes."""
    state, before = calibrator.start(4), None
    for step in range(calibrator.max_steps):
        if state.done:
            break
        who = answers(step)
        if before not in (None, who):
            state = calibrator.restart(state)
        before = who
        sums = [calibrator.statistics(*clients[k], state) for k in who]
        state = calibrator.update(state, add_sums(sums))
    return state.parameters


def loss(calibrator, parameters, clients):
    logits, labels = (torch.cat(parts) for parts in zip(*clients, strict=True))
    log_p = calibrator.apply(logits, parameters)
    if type(calibrator).__name__ == "ParametrisedTemperature" or (
        type(calibrator).__name__ == "Ensemble" and calibrator.objective == "mse"
    ):
        return ((log_p.exp() - torch.nn.functional.one_hot(labels, 4)) ** 2).sum(1).mean()
    if hasattr(calibrator, "recalibrate"):  # fitted to the top confidence alone
        c = calibrator.confidence(logits, parameters).clamp(1e-9, 1 - 1e-9)
        hit = (logits.argmax(1) == labels).double()
        return -(hit * c.log() + (1 - hit) * (1 - c).log()).mean()
    return -log_p.gather(1, labels[:, None]).mean()


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("missing", [0, 2])
def test_one_client_missing_in_one_round_changes_next_to_nothing(spec, missing):
    clients, calibrator = ten_clients(), build_calibrator(spec)
    whole = fit(calibrator, clients)
    found = fit_with(
        calibrator, clients, lambda step: list(range(1, 10) if step == missing else range(10))
    )
    start = loss(calibrator, calibrator.start(4).parameters, clients)
    best, reached = (loss(calibrator, p, clients) for p in (whole, found))
    assert best < start - 0.005
    assert reached - best < 0.02 * (start - best)


def test_the_missing_client_used_to_leave_the_temperature_at_one():
    clients, calibrator = ten_clients(), build_calibrator("temperature")
    # The tenth client's sums are missing at first: the loss of ten is above that of nine anywhere.
    found = fit_with(calibrator, clients, lambda step: list(range(9 if step == 0 else 10)))
    whole = fit(calibrator, clients)["inverse_temperature"]
    assert float(whole) < 0.6
    torch.testing.assert_close(found["inverse_temperature"], whole, rtol=1e-6, atol=0)


def opposite_clients(k=4, n=200):
    """Return two clients, of logits half as sharp as they should be and three times too sharp."""
    found = []
    for seed, sharpness in enumerate((0.5, 3.0)):
        generator = torch.Generator().manual_seed(seed)
        logits = 3 * torch.randn(n, k, generator=generator, dtype=torch.float64)
        chances = (logits / sharpness).softmax(1)
        found.append((logits, torch.multinomial(chances, 1, generator=generator).squeeze(1)))
    return found


@pytest.mark.parametrize("spec", SPECS)
def test_a_late_client_that_needs_the_opposite_does_not_hold_the_fit_up(spec):
    """Where the first client alone led to, all is worse for both: the way is back, and beyond."""
    clients, calibrator = opposite_clients(), build_calibrator(spec)
    whole = fit(calibrator, clients)
    found = fit_with(calibrator, clients, lambda step: [0] if step == 0 else [0, 1])
    start = loss(calibrator, calibrator.start(4).parameters, clients)
    best, reached = (loss(calibrator, p, clients) for p in (whole, found))
    assert best < start - 0.005
    assert reached - best < 0.05 * (start - best)


@pytest.mark.parametrize("spec", SPECS)
def test_clients_that_come_and_go_still_give_a_finite_improvement(spec):
    clients, calibrator = ten_clients(), build_calibrator(spec)
    found = fit_with(
        calibrator, clients, lambda step: [k for k in range(10) if (k + step) % 3 or k == 0]
    )
    calibrator.check(found, 4)
    before = loss(calibrator, calibrator.start(4).parameters, clients)
    assert loss(calibrator, found, clients) < before


def test_restart_keeps_point_and_number_of_steps():
    clients, calibrator = ten_clients(), build_calibrator("vector")
    state = calibrator.start(4)
    for _ in range(2):
        sums = add_sums(calibrator.statistics(*data, state) for data in clients)
        state = calibrator.update(state, sums)
    again = calibrator.restart(state)
    assert again.parameters is state.parameters
    assert float(again.solver["rounds"]) == 2
    assert torch.isinf(again.solver["value"])


@pytest.mark.parametrize("classes", [16, 24])
@pytest.mark.parametrize("spec", ["dirichlet", "matrix"])
def test_many_classes_are_fitted_to_the_optimum(spec, classes):
    generator = torch.Generator().manual_seed(classes)
    logits = 2.5 * torch.randn(1500, classes, generator=generator, dtype=torch.float64)
    labels = torch.multinomial((logits / 2).softmax(1), 1, generator=generator).squeeze(1)
    calibrator = build_calibrator(spec)
    state = fit_to_the_end(calibrator, [(logits, labels)])
    assert state.converged
    assert float(state.solver["rounds"]) <= 100
    newton = build_calibrator(f"{spec}(solver='newton', tolerance=1e-10)")
    exact = newton.apply(logits, fit(newton, [(logits, labels)])).exp()
    ours = calibrator.apply(logits, state.parameters).exp()
    assert float((ours - exact).abs().max()) < 2e-5


def test_a_fit_that_runs_out_of_steps_says_so():
    clients = ten_clients()
    for spec in ("vector(max_steps=2)", "dirichlet(solver='lbfgs', max_steps=3)"):
        assert not fit_to_the_end(build_calibrator(spec), clients).converged
    for spec in ("temperature", "vector", "dirichlet", "beta", "ensemble(objective='ce')"):
        assert fit_to_the_end(build_calibrator(spec), clients).converged
    short = build_calibrator("ensemble(objective='ce', weight_steps=1)")
    assert not fit_to_the_end(short, clients).converged


def test_a_finished_state_is_converged_unless_it_says_otherwise():
    assert FitState({}, {}, True).converged
