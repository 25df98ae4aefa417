"""Known values: published formulas in numpy, and the numbers of one worked example."""

import math

import losses_reference as reference
import numpy as np
import pytest
import torch
from losses_cases import make
from losses_reference import LABELS, LOGITS

from fl2ora.calibration.losses.base import LossContext
from fl2ora.calibration.losses.zs_norm import normalise

EMPTY = LossContext()
CE = 0.752574

# name, arguments, base + weight * loss as in the source, the worked number, numpy's value
WORKED = [
    ("cross_entropy", {}, 0, 1, 0.752574, reference.cross_entropy),
    ("dca", {}, 0, 1, 0.005172, reference.dca),
    ("mdca", {}, 0, 1, 0.135433, reference.mdca),
    ("mmce", {}, 0, 1, 0.134915, reference.mmce),
    ("mmce_weighted", {}, 0, 1, 0.399152, reference.mmce_weighted),
    ("focal", {}, 0, 1, 0.307039, reference.focal),
    ("flsd", {}, 0, 1, 0.205076, reference.flsd),
    ("dual_focal", {}, 0, 1, 0.208724, reference.dual_focal),
    (
        "label_smoothing",
        {"alpha": 0.1},
        0,
        1,
        0.824796,
        lambda z, y: reference.label_smoothing(z, y, 0.1),
    ),
    ("label_smoothing_others", {}, 0, 1, 0.860907, reference.label_smoothing_others),
    ("mbls", {}, 0, 1, 0.0, reference.mbls),
    ("mbls", {"margin": 1}, 0, 1, 0.444444, lambda z, y: reference.mbls(z, y, 1)),
    ("mbls", {"margin": 1}, CE, 0.1, 0.797018, lambda z, y: reference.mbls(z, y, 1)),
    ("confidence_penalty", {}, CE, 0.1, 0.673345, reference.confidence_penalty),
    (
        "confidence_penalty",
        {"per_class": True},
        CE,
        0.1,
        0.726164,
        lambda z, y: reference.confidence_penalty(z, y) / 3,
    ),
    ("brier", {}, 0, 1, 0.410742, reference.brier),
    (
        "soft_binned_ece",
        {"num_bins": 5},
        0,
        1,
        0.331036,
        lambda z, y: reference.soft_binned_ece(z, y, 5),
    ),
    (
        "soft_binned_ece",
        {"num_bins": 5, "norm": 1},
        0,
        1,
        0.309531,
        lambda z, y: reference.soft_binned_ece(z, y, 5, norm=1),
    ),
    ("avuc", {"threshold": 0.8}, 0, 1, 0.441151, lambda z, y: reference.avuc(z, y, 0.8)),
    ("soft_avuc", {}, 0, 1, 0.540592, reference.soft_avuc),
    ("cpc", {"bdc": 1, "bec": 0}, 0, 1, 0.483841, reference.bdc),
    ("cpc", {"bdc": 0, "bec": 1}, 0, 1, 0.391767, reference.bec),
    ("cpc", {}, 0, 1, 0.0483841 + 0.391767, reference.cpc),
    ("acls", {"margin": 1}, 0, 1, 1.85, lambda z, y: reference.acls(z, y, 1)),
    ("acls", {"margin": 1}, CE, 0.1, 0.937574, lambda z, y: reference.acls(z, y, 1)),
]


@pytest.mark.parametrize(("name", "kwargs", "base", "weight", "worked", "formula"), WORKED)
def test_worked_example(name, kwargs, base, weight, worked, formula):
    independent = formula(LOGITS, LABELS)
    assert base + weight * independent == pytest.approx(worked, abs=1.1e-6)
    logits, labels = torch.tensor(LOGITS, dtype=torch.float64), torch.tensor(LABELS)
    value = make(name, kwargs)(logits, labels, EMPTY)
    assert value.shape == ()
    assert value.item() == pytest.approx(independent, abs=1e-9)


def test_mmce_is_not_squared():
    logits, labels = torch.tensor(LOGITS, dtype=torch.float64), torch.tensor(LABELS)
    assert make("mmce")(logits, labels, EMPTY).item() ** 2 == pytest.approx(0.018202, abs=1e-6)


# Formulas against loops on data that has every kind of sample: right, wrong, sure, unsure.
FORMULAS = {
    "cross_entropy": ({}, reference.cross_entropy),
    "dca": ({}, reference.dca),
    "mdca": ({}, reference.mdca),
    "mmce": ({"bandwidth": 0.25}, lambda z, y: reference.mmce(z, y, 0.25)),
    "mmce_weighted": ({"bandwidth": 0.25}, lambda z, y: reference.mmce_weighted(z, y, 0.25)),
    "focal": ({"gamma": 1.5}, lambda z, y: reference.focal(z, y, 1.5)),
    "flsd": ({}, reference.flsd),
    "dual_focal": ({"gamma": 2}, lambda z, y: reference.dual_focal(z, y, 2)),
    "label_smoothing": ({"alpha": 0.3}, lambda z, y: reference.label_smoothing(z, y, 0.3)),
    "label_smoothing_others": (
        {"alpha": 0.3},
        lambda z, y: reference.label_smoothing_others(z, y, 0.3),
    ),
    "mbls": ({"margin": 0.7}, lambda z, y: reference.mbls(z, y, 0.7)),
    "brier": ({}, reference.brier),
    "soft_binned_ece": (
        {"temperature": 1e-3},
        lambda z, y: reference.soft_binned_ece(z, y, 15, 1e-3),
    ),
    "avuc": ({"threshold": 1.1}, lambda z, y: reference.avuc(z, y, 1.1)),
    "soft_avuc": (
        {"temperature": 0.5, "threshold": 0.7},
        lambda z, y: reference.soft_avuc(z, y, 0.5, 0.7),
    ),
    "cpc": ({"bdc": 0.4, "bec": 0.7}, lambda z, y: reference.cpc(z, y, 0.4, 0.7)),
    "acls": (
        {"margin": 0.6, "largest": 0.8, "others": 0.3},
        lambda z, y: reference.acls(z, y, 0.6, 0.8, 0.3),
    ),
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", FORMULAS)
def test_formula_on_random_batches(name, seed):
    random = np.random.default_rng(seed)
    z = random.normal(scale=1.5, size=(12, 5))
    y = np.where(random.random(12) < 0.6, z.argmax(1), random.integers(5, size=12))
    assert 0 < reference.top(z, y)[1].mean() < 1
    kwargs, formula = FORMULAS[name]
    value = make(name, kwargs)(torch.tensor(z), torch.tensor(y), EMPTY)
    assert value.item() == pytest.approx(formula(z.tolist(), y), rel=1e-7, abs=1e-9)


def test_avuc_threshold_of_the_batch_is_midway():
    logits, labels = torch.tensor(LOGITS, dtype=torch.float64), torch.tensor(LABELS)
    h = reference.entropies(LOGITS)  # the first two are right, the third is wrong
    midpoint = ((h[0] + h[1]) / 2 + h[2]) / 2
    assert h[0] < midpoint < h[2]
    assert make("avuc")(logits, labels, EMPTY).item() == pytest.approx(
        reference.avuc(LOGITS, LABELS, midpoint), abs=1e-9
    )
    right = torch.tensor([0, 1])  # no wrong prediction: the mean of the right ones
    assert make("avuc")(logits[:2], right, EMPTY).item() == pytest.approx(
        reference.avuc(LOGITS[:2], [0, 1], (h[0] + h[1]) / 2), abs=1e-9
    )


def test_avuc_counts_an_entropy_at_the_threshold_as_certain():
    logits = torch.tensor([[1.0, 0.0]])  # alone, its entropy is the threshold of the batch
    assert make("avuc")(logits, torch.tensor([0]), EMPTY).item() == 0


def test_mixup_weighs_both_labels():
    logits, labels = torch.tensor(LOGITS, dtype=torch.float64), torch.tensor(LABELS)
    mixed = torch.tensor([2, 0, 1])
    value = make("mixup")(logits, labels, LossContext(mixed_labels=mixed, mixing_weight=0.3))
    expected = reference.mixup(LOGITS, LABELS, [2, 0, 1], 0.3)
    assert value.item() == pytest.approx(expected, abs=1e-12)


def test_zs_norm_worked_example():
    z, zero_shot = [[40.0, 25.0, 10.0]], [[24.0, 22.0, 20.0]]
    expected = reference.normalised(z, zero_shot)
    assert expected == [[24.0, 22.0, 20.0]]
    z64, zero64 = (torch.tensor(rows, dtype=torch.float64) for rows in (z, zero_shot))
    torch.testing.assert_close(normalise(z64, zero64), torch.tensor(expected, dtype=torch.float64))
    top = math.exp(24) / (math.exp(24) + math.exp(22) + math.exp(20))
    assert top == pytest.approx(0.866813, abs=1e-6)
    value = make("zs_norm")(z64, torch.tensor([0]), LossContext(zero_shot_logits=zero64))
    assert value.item() == pytest.approx(-math.log(top), abs=1e-12)


def test_zs_penalty_worked_example():
    z, zero_shot = [[40.0, 25.0, 10.0]], [[24.0, 22.0, 20.0]]
    by_hand = (16 + 1 + 0) / 3 + (0 + 0 + 10) / 3
    assert by_hand == pytest.approx(9.0)
    assert reference.zs_penalty(z, zero_shot) == pytest.approx(9.0)
    context = LossContext(zero_shot_logits=torch.tensor(zero_shot))
    assert make("zs_penalty")(torch.tensor(z), torch.tensor([0]), context).item() == pytest.approx(
        9
    )


FEATURES = [[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.0, 0.6, 0.8]]


def test_kgcoop_worked_example():
    w = np.array(FEATURES)
    squared = np.mean([np.sum((row - e) ** 2) for row, e in zip(w, np.eye(3), strict=True)])
    assert squared == pytest.approx(0.266667, abs=1e-6)
    context = LossContext(text_features=torch.tensor(w), zero_shot_text_features=torch.eye(3))
    value = make("kgcoop")(torch.zeros(1, 3), torch.tensor([0]), context).item()
    assert value == pytest.approx(0.133333, abs=1e-6)
    assert value == pytest.approx(squared / 2, abs=1e-9)


@pytest.mark.parametrize(
    ("form", "worked"), [("distance", -0.636599), ("gram", 1.1808), ("orthogonality", 0.178845)]
)
def test_dispersion_worked_example(form, worked):
    w = np.array(FEATURES)
    gram = w @ w.T
    independent = {
        "distance": -np.mean([np.linalg.norm(row - w.mean(0)) for row in w]),
        "gram": np.sum((gram - np.eye(3)) ** 2),
        "orthogonality": np.mean([abs(np.linalg.norm(column) - 1) for column in gram.T]),
    }[form]
    assert independent == pytest.approx(worked, abs=1e-6)
    context = LossContext(text_features=torch.tensor(w))
    value = make("dispersion", {"form": form})(torch.zeros(1, 3), torch.tensor([0]), context)
    assert value.item() == pytest.approx(independent, abs=1e-9)


@pytest.mark.parametrize("penalty", ["dca", "mdca"])
def test_nucfl_worked_example(penalty):
    local, last_global = np.array([0.1, -0.2, 0.3]), np.array([0.2, -0.1, 0.1])
    cosine = local @ last_global / np.linalg.norm(local) / np.linalg.norm(last_global)
    assert cosine == pytest.approx(0.763763, abs=1e-6)
    logits, labels = torch.tensor(LOGITS, dtype=torch.float64), torch.tensor(LABELS)
    loss = make("nucfl", {"penalty": penalty, "weight": 2})
    value = loss(logits, labels, LossContext(update_similarity=float(cosine))).item()
    inner = {"dca": reference.dca, "mdca": reference.mdca}[penalty](LOGITS, LABELS)
    assert value == pytest.approx(2 * cosine * inner, abs=1e-12)
    for similarity in (0.0, -0.5):
        context = LossContext(update_similarity=similarity)
        assert loss(logits, labels, context).item() == 0
