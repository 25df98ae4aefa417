"""Logits that overflow, masked classes, and inputs of the wrong kind."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from losses_cases import CASE_IDS, CASES, full_context, make

from fl2ora.calibration.losses.base import LossContext

INF = math.inf
NASTY = {
    "overflow": [[1e38, 0, -1e38], [0, 1e38, 0]],
    "largest float32": [[3e38, -3e38, 0], [0, 0, 3e38]],
    "squares overflow": [[1e20, 0, -1e20], [1, 1e20, 3]],
    "one class masked": [[1.0, -INF, 2], [0, -INF, 3]],
    "all but one masked": [[-INF, -INF, 2], [1, -INF, -INF]],
    "equal to the last bit but one": [[1e-38, 0, 0], [0, 0, 1e-38]],
}


@pytest.mark.parametrize("labels", [[0, 2], [2, 0]])
@pytest.mark.parametrize("rows", NASTY.values(), ids=NASTY)
@pytest.mark.parametrize(("name", "kwargs"), CASES, ids=CASE_IDS)
def test_values_and_gradients_stay_finite(name, kwargs, rows, labels):
    logits = torch.tensor(rows, requires_grad=True)
    context = dataclasses.replace(
        full_context(2, 3, torch.float32), mixed_labels=torch.tensor(labels)
    )
    value = make(name, kwargs)(logits, torch.tensor(labels), context)
    assert torch.isfinite(value)
    if value.requires_grad:
        value.backward()
        assert logits.grad is None or torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(("name", "kwargs"), CASES, ids=CASE_IDS)
def test_half_precision_gradients_do_not_overflow(name, kwargs):
    logits = torch.tensor([[6e4, -6e4, 0]], dtype=torch.float16, requires_grad=True)
    context = dataclasses.replace(full_context(1, 3, torch.float16), mixed_labels=torch.tensor([1]))
    value = make(name, kwargs)(logits, torch.tensor([1]), context)
    assert torch.isfinite(value)
    if value.requires_grad:
        value.backward()
        assert logits.grad is None or torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [c for c in CASES if c[0] in ("cross_entropy", "focal", "brier", "dca", "mmce", "avuc")],
    ids=lambda value: str(value),
)
def test_a_masked_class_is_as_good_as_absent(name, kwargs):
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.3, -1.0, 0.9]])
    masked = torch.cat([logits, torch.full((2, 1), -INF)], dim=1)
    labels, context = torch.tensor([1, 0]), LossContext()
    absent = make(name, kwargs)(logits, labels, context)
    torch.testing.assert_close(make(name, kwargs)(masked, labels, context), absent)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([[0.0, 1.0]], torch.tensor([0]), "logits: expected a tensor, found list"),
        (np.zeros((1, 2)), torch.tensor([0]), "logits: expected a tensor, found ndarray"),
        (torch.zeros(1, 2), [0], "labels: expected a tensor, found list"),
        (torch.zeros(1, 2), None, "labels: expected a tensor, found NoneType"),
        (torch.zeros(1, 2), torch.tensor([2]), "labels: expected classes 0 to 1, found 2 to 2"),
        (torch.zeros(1, 2), torch.tensor([-1]), "labels: expected classes 0 to 1, found -1 to -1"),
    ],
)
@pytest.mark.parametrize("name", ["cross_entropy", "focal", "mdca", "acls"])
def test_inputs_of_the_wrong_kind(name, logits, labels, message):
    with pytest.raises(ValueError, match=message):
        make(name)(logits, labels, LossContext())


def test_soft_avuc_gradient_holds_right_and_wrong_fixed_and_moves_both_factors():
    """Against the formula written out with t and H moving, accuracy constant."""
    rows = torch.tensor([[2.0, 0.3, -1.0], [0.1, 0.4, 0.2], [1.0, 2.5, 2.4]], dtype=torch.float64)
    labels, right = torch.tensor([0, 2, 1]), torch.tensor([1.0, 0, 1], dtype=torch.float64)

    def sums(z):
        p = z.exp() / z.exp().sum(1, keepdim=True)
        entropy = -(p * p.log()).sum(1)
        e = entropy / math.log(3)
        t = 1 / (1 + (1 - e) / e)  # the sigmoid of ln(e / (1 - e)): threshold 1/2, temperature 1
        sure, unsure = (1 - t) * (1 - entropy.tanh()), t * entropy.tanh()
        return sure, unsure

    whole = rows.clone().requires_grad_()
    sure, unsure = sums(whole)
    good = (right * sure + (1 - right) * unsure).sum()
    bad = (right * unsure + (1 - right) * sure).sum()
    (1 + bad / good).log().backward()
    ours = rows.clone().requires_grad_()
    make("soft_avuc")(ours, labels, LossContext()).backward()
    torch.testing.assert_close(ours.grad, whole.grad, rtol=1e-8, atol=1e-10)
    assert whole.grad.abs().min() > 1e-3


def test_the_threshold_of_avuc_and_the_correctness_of_all_carry_no_gradient():
    from fl2ora.calibration.losses._batch import read
    from fl2ora.calibration.losses.avuc import _midpoint

    logits = torch.tensor([[2.0, 0.3, -1.0], [0.1, 0.4, 0.2]], requires_grad=True)
    batch = read(logits, torch.tensor([0, 2]))
    assert not _midpoint(batch).requires_grad
    assert not batch.correct.requires_grad
    assert not batch.one_hot.requires_grad
