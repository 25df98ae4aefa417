"""Sums that no examples have are refused, and those of any examples taken, by every calibrator."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl2ora.calibration.calibrators._plausible import check_semidefinite
from fl2ora.calibration.calibrators.base import CalibrationContext, Calibrator, FitState, Sums
from fl2ora.calibration.calibrators.files import build_calibrator

CHECKED = (
    "temperature",
    "zero_shot_temperature",
    "vector",
    "vector(solver='lbfgs')",
    "matrix",
    "matrix(solver='lbfgs')",
    "dirichlet",
    "ensemble",
    "ensemble(objective='ce')",
    "beta",
    "platt",
    "parametrised_temperature(steps=9)",
    "order_preserving(steps=9)",
)


def sums_of(
    calibrator: Calibrator, state: FitState, logits: torch.Tensor, labels: torch.Tensor
) -> Sums:
    context = CalibrationContext(zero_shot_logits=0.5 * logits)
    return calibrator.statistics(logits, labels, state, context=context)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    images=st.integers(0, 40),
    classes=st.integers(2, 7),
    spread=st.sampled_from([0.0, 1e-3, 1.0, 30.0, 1e4]),
    right=st.booleans(),
)
@pytest.mark.parametrize("spec", CHECKED)
def test_sums_of_any_examples_are_taken_at_every_step(
    spec: str, seed: int, images: int, classes: int, spread: float, right: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(images, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (images,), generator=generator)
    if right:
        labels = logits.argmax(dim=1)
    calibrator = build_calibrator(spec)
    state = calibrator.start(classes)
    for _ in range(6):
        sums = sums_of(calibrator, state, logits, labels)
        calibrator.check_sums(sums, state, classes)
        if not images or state.done:
            return
        state = calibrator.update(state, sums)


LIES: list[tuple[str, str, Callable[[torch.Tensor], torch.Tensor]]] = [
    ("temperature", "loss", lambda value: -value),
    ("temperature", "slope", lambda value: value - 1e9),
    ("temperature", "slope", lambda value: value + 1e9),
    ("temperature", "curvature", lambda value: -value),
    ("temperature", "curvature", lambda value: value * 1e9),
    ("zero_shot_temperature", "slope", lambda value: value - 1e9),
    ("vector", "gradient", lambda value: value + 1e9),
    ("matrix(solver='lbfgs')", "moments", lambda value: -value),
    ("matrix", "loss", lambda value: value * 1e9),
    ("ensemble", "products", lambda value: value * 1e9),
    ("ensemble", "products", lambda value: value.flip(0)),
    ("ensemble", "hits", lambda value: -value),
    ("ensemble(objective='ce')", "shares", lambda value: value * 2),
    ("ensemble(objective='ce')", "mixed", lambda value: -value),
    ("ensemble(objective='ce')", "ratios", lambda value: value * 2),
    ("ensemble(objective='ce')", "squares", lambda value: -value),
    ("platt", "softplus", lambda value: value * 1e9),
    ("platt", "expected", lambda value: value + 1e9),
    ("platt", "positive", lambda value: value + 1e9),
    ("beta", "negative", lambda value: -value),
    ("beta", "hessian", lambda value: value * 1e9),
    ("order_preserving(steps=9)", "loss", lambda value: -value),
]


@pytest.mark.parametrize(("spec", "name", "lie"), LIES)
def test_a_lie_of_one_sum_is_refused(
    spec: str, name: str, lie: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(30, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (30,), generator=generator)
    calibrator = build_calibrator(spec)
    state = calibrator.start(4)
    sums = sums_of(calibrator, state, logits, labels)
    with pytest.raises(ValueError, match=r"expected .*, found "):
        calibrator.check_sums({**sums, name: lie(sums[name])}, state, 4)


@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_the_variance_of_log_probabilities_is_below_its_bound(classes: int) -> None:
    """One class of probability q, the others alike, is the worst case: look at all of these."""
    q = torch.linspace(1e-6, 1 - 1e-6, 100_001, dtype=torch.float64)
    rest = (1 - q) / (classes - 1)
    variance = q * (1 - q) * (q.log() - rest.log()) ** 2
    bound = math.log(classes) ** 2 / 4 + 1
    assert 0.3 * bound < float(variance.max()) < bound


def test_a_matrix_without_symmetry_is_no_sum_of_squares() -> None:
    check_semidefinite("m", torch.tensor([[2.0, 1.0], [1.0, 2.0]]))
    for wrong in ([[2.0, 1.0], [0.0, 2.0]], [[1.0, 2.0], [2.0, 1.0]]):
        with pytest.raises(ValueError, match="m: expected a sum of squares"):
            check_semidefinite("m", torch.tensor(wrong))
