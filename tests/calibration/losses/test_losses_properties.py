"""What holds for every batch: order, shift, bounds, and losses that become others."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from losses_cases import CASE_IDS, CASES, full_context, make

from fl2ora.calibration.losses.base import LossContext
from fl2ora.calibration.losses.zs_norm import normalise

RAW_LOGITS = {"acls", "zs_penalty"}  # these look at the logits' level, not at differences alone


@st.composite
def batches(draw):
    """Draw logits (B, K) and labels of which about half are predicted right."""
    size, classes = draw(st.integers(1, 8)), draw(st.integers(3, 6))
    scale = draw(st.sampled_from([0.1, 1.0, 30.0]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    logits = scale * torch.randn(size, classes, dtype=torch.float64, generator=generator)
    labels = torch.randint(classes, (size,), generator=generator)
    right = torch.rand(size, generator=generator) < 0.5
    return logits, torch.where(right, logits.argmax(1), labels)


few = settings(max_examples=25, deadline=None)


@pytest.mark.parametrize(("name", "kwargs"), CASES, ids=CASE_IDS)
@few
@given(batch=batches(), seed=st.integers(0, 2**32))
def test_order_of_the_batch_is_no_matter(name, kwargs, batch, seed):
    logits, labels = batch
    context = full_context(*logits.shape)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    permuted = dataclasses.replace(
        context,
        zero_shot_logits=context.zero_shot_logits[order],
        mixed_labels=context.mixed_labels[order],
    )
    first = make(name, kwargs)(logits, labels, context)
    second = make(name, kwargs)(logits[order], labels[order], permuted)
    torch.testing.assert_close(first, second, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "kwargs"), [c for c in CASES if c[0] not in RAW_LOGITS], ids=lambda value: str(value)
)
@few
@given(batch=batches(), shift=st.floats(-50, 50))
def test_a_constant_added_to_the_logits_is_no_matter(name, kwargs, batch, shift):
    logits, labels = batch
    context = full_context(*logits.shape)
    shifts = shift * torch.arange(1, len(labels) + 1, dtype=torch.float64)[:, None]
    first = make(name, kwargs)(logits, labels, context)
    second = make(name, kwargs)(logits + shifts, labels, context)
    torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", sorted(RAW_LOGITS))
def test_these_do_see_a_constant_added_to_the_logits(name):
    logits, labels = torch.tensor([[12.0, 11.0, 0.0]]), torch.tensor([0])
    context = LossContext(zero_shot_logits=torch.tensor([[20.0, 10.0, 0.0]]))
    first, second = (make(name)(logits + shift, labels, context).item() for shift in (0, 30))
    assert second > first + 1


@few
@given(batch=batches(), margin=st.floats(0, 3), shift=st.floats(-20, 20))
def test_acls_without_its_first_term_is_shift_invariant(batch, margin, shift):
    logits, labels = batch
    loss = make("acls", {"margin": margin, "largest": 0})
    first, second = (loss(z, labels, LossContext()) for z in (logits, logits + shift))
    torch.testing.assert_close(first, second)


def upper_bound(name, kwargs, logits):
    """Return the largest value a penalty can take."""
    if name in {"dca", "mdca", "mmce", "soft_binned_ece"}:
        return 1.0
    if name == "mmce_weighted":
        return math.sqrt(2)
    if name in {"kgcoop", "dor"}:
        return 2.0
    return {"confidence_penalty": 0.0, "nucfl": 0.4 * kwargs.get("weight", 1.0)}.get(name, math.inf)


def lower_bound(name, kwargs, logits):
    """Return the smallest value a penalty can take."""
    if name == "confidence_penalty":
        return -math.log(logits.shape[1]) / (logits.shape[1] if kwargs.get("per_class") else 1)
    if name == "dispersion" and kwargs["form"] == "distance":
        return -1.0
    return 0.0


@pytest.mark.parametrize(("name", "kwargs"), CASES, ids=CASE_IDS)
@few
@given(batch=batches())
def test_values_stay_in_their_bounds(name, kwargs, batch):
    logits, labels = batch
    value = make(name, kwargs)(logits, labels, full_context(*logits.shape)).item()
    assert lower_bound(name, kwargs, logits) - 1e-9 <= value
    assert value <= upper_bound(name, kwargs, logits) + 1e-9


@few
@given(batch=batches())
def test_brier_is_at_most_two(batch):
    value = make("brier")(*batch, LossContext()).item()
    assert 0 <= value <= 2
    assert make("brier")(torch.tensor([[200.0, 0]]), torch.tensor([1]), LossContext()) == 2


SAME_AS_CROSS_ENTROPY = [
    ("focal", {"gamma": 0}),
    ("flsd", {"gamma_hard": 0, "gamma_easy": 0}),
    ("dual_focal", {"gamma": 0}),
    ("label_smoothing", {"alpha": 0}),
    ("label_smoothing_others", {"alpha": 0}),
]


@pytest.mark.parametrize(("name", "kwargs"), SAME_AS_CROSS_ENTROPY)
@few
@given(batch=batches())
def test_without_its_weight_it_is_cross_entropy(name, kwargs, batch):
    expected = torch.nn.functional.cross_entropy(*batch)
    torch.testing.assert_close(make(name, kwargs)(*batch, LossContext()), expected)


@few
@given(batch=batches())
def test_mixup_of_weight_one_is_cross_entropy(batch):
    logits, labels = batch
    context = LossContext(mixed_labels=labels.flip(0), mixing_weight=1.0)
    expected = torch.nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close(make("mixup")(logits, labels, context), expected)


@few
@given(batch=batches(), alpha=st.floats(0, 0.9))
def test_label_smoothing_is_that_of_pytorch(batch, alpha):
    expected = torch.nn.functional.cross_entropy(*batch, label_smoothing=alpha)
    value = make("label_smoothing", {"alpha": alpha})(*batch, LossContext())
    torch.testing.assert_close(value, expected)


@few
@given(batch=batches(), alpha=st.floats(0, 0.5))
def test_one_label_smoothing_is_the_other_with_more_weight(batch, alpha):
    k = batch[0].shape[1]
    others = make("label_smoothing_others", {"alpha": alpha})(*batch, LossContext())
    uniform = make("label_smoothing", {"alpha": alpha * k / (k - 1)})(*batch, LossContext())
    torch.testing.assert_close(others, uniform)


@few
@given(batch=batches())
def test_zs_norm_keeps_order_and_takes_the_range(batch):
    logits, _ = batch
    zero_shot = full_context(*logits.shape).zero_shot_logits
    moved = normalise(logits, zero_shot)
    assert torch.equal(moved.argsort(1), logits.argsort(1))
    torch.testing.assert_close(moved.amax(1), zero_shot.amax(1))
    torch.testing.assert_close(moved.amin(1), zero_shot.amin(1))


def test_zs_norm_of_flat_logits_is_the_least_zero_shot_logit():
    z, zero_shot = torch.full((1, 3), 7.0), torch.tensor([[4.0, 2.0, 3.0]])
    assert normalise(z, zero_shot).tolist() == [[2.0, 2.0, 2.0]]


def test_zs_penalty_is_zero_inside_the_range():
    context = LossContext(zero_shot_logits=torch.tensor([[4.0, -2.0, 3.0]]))
    logits = torch.tensor([[4.0, -2.0, 0.0]])
    assert make("zs_penalty")(logits, torch.tensor([0]), context) == 0


def test_of_equal_logits_the_lowest_index_is_predicted():
    logits = torch.tensor([[1.0, 1.0, 0.0]])
    c = math.e / (2 * math.e + 1)
    values = [make("dca")(logits, torch.tensor([label]), LossContext()).item() for label in (0, 1)]
    assert values == pytest.approx([1 - c, c], abs=1e-6)
