"""Gradients: against finite differences, and finite at every edge."""

import dataclasses
import math

import losses_reference as reference
import pytest
import torch
from losses_cases import CASE_IDS, CASES, full_context, make, random_encoder
from losses_reference import LABELS, LOGITS

from fl2ora.calibration.losses.base import LossContext

TEXT = {"kgcoop", "dispersion", "dor"}  # losses of text features alone
# The second term of acls holds a value fixed that finite differences move: see its own test.
DIFFERENTIABLE = [
    ("acls", {"margin": 0.5, "others": 0}) if name == "acls" else (name, kwargs)
    for name, kwargs in CASES
]


@pytest.mark.parametrize(("name", "kwargs"), DIFFERENTIABLE, ids=CASE_IDS)
def test_gradient_equals_finite_differences(name, kwargs):
    generator = torch.Generator().manual_seed(3)
    logits = 1.5 * torch.randn(6, 4, dtype=torch.float64, generator=generator)
    labels = logits.argmax(1)
    labels[:2] = (labels[:2] + 1) % 4  # two wrong predictions of six
    plain = full_context(6, 4)
    scale = torch.ones(4, 6, dtype=torch.float64)

    def value(logits, scale):
        def encode(words):
            tuned, frozen = random_encoder(torch.float64)(words)
            return tuned * scale[0], frozen

        context = dataclasses.replace(
            plain, text_features=plain.text_features * scale, encode_texts=encode
        )
        return make(name, kwargs)(logits, labels, context)

    moving = (name not in TEXT, name in TEXT)
    inputs = [
        tensor.requires_grad_(moves) for tensor, moves in zip((logits, scale), moving, strict=True)
    ]
    assert torch.autograd.gradcheck(value, inputs)
    value(*inputs).backward()
    gradient = scale.grad if name in TEXT else logits.grad
    assert gradient.abs().max() > 1e-4


@pytest.mark.parametrize("arguments", [{}, {"temperature": 0.5, "threshold": 0.7}])
def test_soft_avuc_gradient_equals_differences_of_its_formula(arguments):
    """Entropy moves the soft threshold and the weights; right and wrong move nothing."""
    logits = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)
    make("soft_avuc", arguments)(logits, torch.tensor(LABELS), LossContext()).backward()
    step, expected = 1e-6, torch.zeros_like(logits)
    for i, row in enumerate(LOGITS):
        for j in range(len(row)):
            ends = []
            for sign in (1, -1):
                moved = [list(values) for values in LOGITS]
                moved[i][j] += sign * step
                ends.append(reference.soft_avuc(moved, LABELS, **arguments))
            expected[i, j] = (ends[0] - ends[1]) / (2 * step)
    torch.testing.assert_close(logits.grad, expected, rtol=0, atol=1e-8)
    assert expected.abs().max() > 1e-2


def test_acls_gradient_holds_the_largest_logit_fixed_in_its_second_term():
    logits = torch.tensor([[2.0, 1, 0, -3], [0, 3, 1, 2.5]], requires_grad=True)
    loss = make("acls", {"margin": 1.5, "largest": 2, "others": 0.3})
    loss(logits, torch.tensor([0, 1]), LossContext()).backward()
    slope = -2 * 0.3 / (2 * 3)  # two samples, three other classes; distances 2, 5 | 3, 2
    expected = [
        [2 * 2 * 0.5 / 2, 0, slope * 0.5, slope * 3.5],
        [slope * 1.5, 2 * 2 * 1.5 / 2, slope * 0.5, 0],
    ]
    torch.testing.assert_close(logits.grad, torch.tensor(expected))


# p exactly 0 or 1, equal logits, one sample, one label, no gap at all.
EDGES = {
    "sure and right": ([[200.0, 0, 0], [0, 200, 0]], [0, 1]),
    "sure and wrong": ([[200.0, 0, 0], [0, 200, 0]], [1, 2]),
    "sure, right and wrong": ([[200.0, 0, 0], [0, 200, 0]], [0, 2]),
    "all alike": ([[0.0, 0, 0], [0, 0, 0]], [0, 1]),
    "all alike and right": ([[5.0, 5, 5], [5, 5, 5]], [0, 0]),
    "one sample, right": ([[1.0, 2, 0]], [1]),
    "one sample, wrong": ([[1.0, 2, 0]], [2]),
    "one label": ([[1.0, 2, 0], [0, 3, 1], [0, 0, 1]], [1, 1, 1]),
    "logits far from zero": ([[1e4, 1e4 + 1, 0], [-1e4, 3, 1]], [1, 1]),
    "almost equal confidence": ([[1.0, 0, 0], [1, 1e-6, 0]], [0, 1]),
}


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize(("name", "kwargs"), CASES, ids=CASE_IDS)
def test_value_and_gradient_are_finite_at_the_edges(name, kwargs, edge):
    rows, labels = EDGES[edge]
    logits = torch.tensor(rows, requires_grad=True)
    features = torch.ones(3, 6).div(math.sqrt(6)).requires_grad_()  # all classes alike
    context = dataclasses.replace(
        full_context(len(rows), 3, torch.float32),
        text_features=features,
        zero_shot_text_features=features.detach(),
        zero_shot_logits=logits.detach(),
    )
    value = make(name, kwargs)(logits, torch.tensor(labels), context)
    assert torch.isfinite(value)
    if value.requires_grad:
        value.backward()
    assert value.requires_grad or name == "dor"
    for tensor in (logits, features):
        assert tensor.grad is None or torch.isfinite(tensor.grad).all()


@pytest.mark.parametrize("name", ["dca", "mdca", "mmce", "mmce_weighted", "soft_binned_ece"])
def test_the_least_penalty_has_no_gradient(name):
    logits = torch.tensor([[200.0, 0, 0], [0, 200, 0]], requires_grad=True)
    value = make(name)(logits, torch.tensor([0, 1]), LossContext())
    value.backward()
    assert value.item() == 0
    assert logits.grad.abs().max() == 0


def test_zs_norm_of_equal_logits_has_no_gradient():
    logits = torch.full((1, 3), 7.0, requires_grad=True)
    context = LossContext(zero_shot_logits=torch.tensor([[4.0, 2.0, 3.0]]))
    value = make("zs_norm")(logits, torch.tensor([1]), context)
    value.backward()
    assert value.item() == pytest.approx(math.log(3), abs=1e-6)
    assert logits.grad.abs().max() == 0


@pytest.mark.parametrize("labels", [[0, 1], [1, 2]])
def test_weighted_mmce_needs_right_and_wrong(labels):
    logits = torch.tensor([[2.0, 1, 0], [0, 2, 1]], requires_grad=True)
    value = make("mmce_weighted")(logits, torch.tensor(labels), LossContext())
    value.backward()
    assert value.item() == 0
    assert logits.grad.abs().max() == 0


@pytest.mark.parametrize("classes", [1, 2])
@pytest.mark.parametrize(("name", "kwargs"), CASES, ids=CASE_IDS)
def test_few_classes(name, kwargs, classes):
    logits = torch.linspace(-1, 1, 3 * classes).reshape(3, classes).requires_grad_()
    labels = torch.zeros(3, dtype=torch.int64)
    context = full_context(3, classes, torch.float32)
    if classes < {"cpc": 3, "soft_avuc": 2}.get(name, 1):
        with pytest.raises(ValueError, match=rf"{name}: expected at least \d classes, found"):
            make(name, kwargs)(logits, labels, context)
        return
    value = make(name, kwargs)(logits, labels, context)
    assert torch.isfinite(value)
    if value.requires_grad:
        value.backward()
        assert logits.grad is None or torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("name", "kwargs"), CASES, ids=CASE_IDS)
def test_half_precision_is_raised_first(name, kwargs, dtype):
    generator = torch.Generator().manual_seed(5)
    half = (4 * torch.randn(6, 4, generator=generator)).to(dtype).requires_grad_()
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    context, wide = full_context(6, 4, dtype), full_context(6, 4, dtype)
    wide = dataclasses.replace(
        wide,
        zero_shot_logits=wide.zero_shot_logits.float(),
        text_features=wide.text_features.float(),
        zero_shot_text_features=wide.zero_shot_text_features.float(),
        encode_texts=lambda words: tuple(f.float() for f in random_encoder(dtype)(words)),
    )
    value = make(name, kwargs)(half, labels, context)
    assert value.dtype == torch.float32
    expected = make(name, kwargs)(half.detach().float(), labels, wide)
    torch.testing.assert_close(value.detach(), expected, rtol=1e-6, atol=1e-6)
    if value.requires_grad:
        value.backward()
        assert torch.isfinite(half.grad).all()


@pytest.mark.parametrize(("name", "kwargs"), CASES, ids=CASE_IDS)
def test_autocast_changes_nothing(name, kwargs):
    generator = torch.Generator().manual_seed(5)
    logits, labels = torch.randn(6, 4, generator=generator), torch.tensor([0, 1, 2, 3, 0, 1])
    context = full_context(6, 4, torch.float32)
    expected = make(name, kwargs)(logits, labels, context)
    with torch.autocast("cpu", torch.bfloat16):
        value = make(name, kwargs)(logits, labels, context)
    torch.testing.assert_close(value, expected)


def test_half_precision_confidence_is_not_rounded_to_one():
    logits = torch.tensor([[9.0, 0.0]], dtype=torch.float16)
    gap = make("dca")(logits, torch.tensor([0]), LossContext()).item()
    assert gap == pytest.approx(1 / (1 + math.exp(9)), rel=1e-3)


@pytest.mark.parametrize(("name", "kwargs"), CASES, ids=CASE_IDS)
def test_nan_is_not_hidden(name, kwargs):
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    logits[1, 2] = math.nan
    context = full_context(4, 3, torch.float32)
    context.text_features[1, 2] = math.nan

    def encode(words):
        tuned, frozen = random_encoder(torch.float32)(words)
        return tuned * math.nan, frozen

    context = dataclasses.replace(context, encode_texts=encode)
    assert make(name, kwargs)(logits, labels, context).isnan()
