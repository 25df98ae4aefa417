"""Weighted sums and mixed batches."""

import math

import numpy as np
import pytest
import torch
from losses_cases import make

from fl2ora.calibration.losses._weighted_sum import WeightedSum
from fl2ora.calibration.losses.base import Loss, LossContext

LOGITS = torch.tensor([[2.0, 1, 0], [0, 3, 1], [1, 1.5, 0.5]], requires_grad=True)
LABELS = torch.tensor([0, 1, 2])


def test_sum_adds_weighted_values_and_reports_bare_ones():
    loss = WeightedSum([(1, make("cross_entropy")), (10, make("dca"))])
    total, terms = loss.evaluate(LOGITS, LABELS, LossContext())
    assert total.item() == pytest.approx(0.752574 + 10 * 0.005172, abs=1e-5)
    assert loss(LOGITS, LABELS, LossContext()).item() == total.item()
    assert list(terms) == ["cross_entropy", "dca"]
    assert terms["dca"].item() == pytest.approx(0.005172, abs=1e-6)
    assert total.requires_grad
    assert not any(term.requires_grad for term in terms.values())


def test_sum_has_the_gradient_of_its_terms():
    pairs = [(0.5, make("cross_entropy")), (3, make("mdca")), (0, make("brier"))]
    (gradient,) = torch.autograd.grad(WeightedSum(pairs)(LOGITS, LABELS, LossContext()), LOGITS)
    expected = torch.zeros_like(LOGITS)
    for weight, loss in pairs:
        expected += weight * torch.autograd.grad(loss(LOGITS, LABELS, LossContext()), LOGITS)[0]
    torch.testing.assert_close(gradient, expected)


def test_sum_within_a_sum_and_equal_names():
    inner = WeightedSum([(1, make("focal", {"gamma": 0})), (1, make("dca"))])
    outer = WeightedSum([(2, inner), (1, make("focal")), (1, make("focal", {"gamma": 1}))])
    total, terms = outer.evaluate(LOGITS, LABELS, LossContext())
    assert list(terms) == ["focal", "dca", "focal_2", "focal_3"]
    bare = [term.item() for term in terms.values()]
    assert bare[0] == pytest.approx(0.752574, abs=1e-6)
    assert bare[2] == pytest.approx(0.307039, abs=1e-6)
    assert total.item() == pytest.approx(2 * (bare[0] + bare[1]) + bare[2] + bare[3], rel=1e-6)


def test_sum_needs_what_its_terms_need():
    loss = WeightedSum([(1, make("zs_norm")), (1, make("kgcoop")), (1, make("zs_penalty"))])
    assert loss.needs == {"zero_shot_logits", "text_features", "zero_shot_text_features"}
    assert WeightedSum([(1, make("cross_entropy"))]).needs == frozenset()


def test_sum_is_a_penalty_if_all_its_terms_are():
    assert WeightedSum([(1, make("dca")), (1, make("mdca"))]).is_penalty
    assert not WeightedSum([(1, make("dca")), (1, make("focal"))]).is_penalty


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf, True, "1"])
def test_bad_weights(weight):
    with pytest.raises(ValueError, match=r"weight of dca: expected a finite number >= 0, found"):
        WeightedSum([(1, make("cross_entropy")), (weight, make("dca"))])


def test_empty_sum():
    with pytest.raises(ValueError, match="pairs: expected at least one weighted loss"):
        WeightedSum([])


def test_any_loss_evaluates_to_one_term():
    value, terms = make("mmce_weighted").evaluate(LOGITS, LABELS, LossContext())
    assert value.requires_grad
    assert list(terms) == ["mmce_weighted"]
    assert terms["mmce_weighted"].item() == value.item()


IMAGES = torch.arange(6 * 2, dtype=torch.float32).reshape(6, 2, 1, 1)
SIX = torch.tensor([0, 1, 2, 3, 4, 5])


def mix(loss, seed):
    return loss.mix(IMAGES, SIX, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "loss", [make("mixup"), WeightedSum([(1, make("mixup")), (0.1, make("confidence_penalty"))])]
)
def test_mixup_mixes_images_and_labels_alike(loss):
    images, labels, weight = mix(loss, 0)
    assert loss.mixes
    assert 0 <= weight <= 1
    assert sorted(labels.tolist()) == SIX.tolist()
    torch.testing.assert_close(images, weight * IMAGES + (1 - weight) * IMAGES[labels])


def test_mixup_depends_on_the_generator_alone():
    torch.manual_seed(1)
    first = mix(make("mixup"), 0)
    torch.manual_seed(2)
    again, other = mix(make("mixup"), 0), mix(make("mixup"), 1)
    assert torch.equal(first[0], again[0])
    assert first[2] == again[2] != other[2]
    generator = torch.Generator().manual_seed(0)
    twice = [make("mixup").mix(IMAGES, SIX, generator)[2] for _ in range(2)]
    assert twice[0] == first[2] != twice[1]


@pytest.mark.parametrize("alpha", [0.2, 3.0])
def test_mixup_weights_follow_the_beta_distribution(alpha):
    loss, generator = make("mixup", {"alpha": alpha}), torch.Generator().manual_seed(0)
    weights = np.array([loss.mix(IMAGES, SIX, generator)[2] for _ in range(2000)])
    deviation = math.sqrt(1 / (4 * (2 * alpha + 1)))  # of Beta(alpha, alpha)
    assert weights.mean() == pytest.approx(0.5, abs=4 * deviation / math.sqrt(2000))
    assert weights.std() == pytest.approx(deviation, rel=0.06)


def test_losses_that_do_not_mix():
    assert mix(make("cross_entropy"), 0) is None
    assert mix(WeightedSum([(1, make("focal"))]), 0) is None
    assert not make("cross_entropy").mixes
    assert not WeightedSum([(1, make("focal"))]).mixes


def test_two_mixing_losses():
    nested = WeightedSum([(1, make("mixup"))])
    with pytest.raises(ValueError, match="at most one loss that mixes batches, found mixup, weig"):
        WeightedSum([(1, make("mixup")), (1, nested)])


def test_a_loss_of_another_package_may_mix():
    class Halve(Loss):
        def __call__(self, logits, labels, context):
            return logits.sum()

        def mix(self, images, labels, generator):
            return images / 2, labels, 0.5

    assert Halve().mixes
    assert Halve().name == "halve"
    torch.testing.assert_close(mix(WeightedSum([(1, Halve())]), 0)[0], IMAGES / 2)
