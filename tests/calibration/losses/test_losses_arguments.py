"""Errors name what was wrong, what was expected and what was found."""

import dataclasses
import math

import pytest
import torch
from losses_cases import full_context, make

from fl2ora.calibration.losses.base import LossContext

LOGITS, LABELS = torch.zeros(2, 3), torch.tensor([0, 1])

BAD = [
    ("acls", "margin", -1),
    ("acls", "largest", -0.1),
    ("acls", "others", math.inf),
    ("avuc", "threshold", -0.5),
    ("confidence_penalty", "per_class", 1),
    ("cpc", "bdc", -1),
    ("cpc", "bec", math.nan),
    ("dispersion", "form", "far"),
    ("dor", "sample", 0),
    ("dor", "sample", 2.0),
    ("dor", "nearest", -1),
    ("dor", "seed", -1),
    ("dor", "words", 3),
    ("dor", "words", " , "),
    ("dual_focal", "gamma", -1),
    ("flsd", "gamma_hard", -1),
    ("flsd", "gamma_easy", "3"),
    ("flsd", "threshold", 1),
    ("focal", "gamma", -0.1),
    ("focal", "gamma", math.nan),
    ("focal", "gamma", True),
    ("label_smoothing", "alpha", 1),
    ("label_smoothing", "alpha", -0.1),
    ("label_smoothing_others", "alpha", 1.5),
    ("mbls", "margin", -1),
    ("mixup", "alpha", 0),
    ("mmce", "bandwidth", 0),
    ("mmce_weighted", "bandwidth", -0.4),
    ("nucfl", "penalty", "mmce"),
    ("nucfl", "weight", -1),
    ("soft_avuc", "temperature", 0),
    ("soft_avuc", "threshold", 0),
    ("soft_binned_ece", "num_bins", 0),
    ("soft_binned_ece", "temperature", 0),
    ("soft_binned_ece", "norm", 3),
]


@pytest.mark.parametrize(("name", "argument", "value"), BAD)
def test_bad_argument(name, argument, value):
    with pytest.raises(ValueError, match=rf"^{argument}: expected .+, found ") as caught:
        make(name, {argument: value})
    assert str(caught.value).endswith(f"found {value!r}")


def test_message_states_the_range():
    with pytest.raises(
        ValueError, match=r"^threshold: expected a finite number > 0 and < 1, found 2$"
    ):
        make("flsd", {"threshold": 2})
    with pytest.raises(ValueError, match=r"^penalty: expected one of dca, mdca, found 'ece'$"):
        make("nucfl", {"penalty": "ece"})


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("zs_norm", "zero_shot_logits"),
        ("zs_penalty", "zero_shot_logits"),
        ("kgcoop", "text_features"),
        ("kgcoop", "zero_shot_text_features"),
        ("dispersion", "text_features"),
        ("dor", "encode_texts"),
        ("mixup", "mixed_labels"),
    ],
)
def test_missing_context(name, field):
    context = dataclasses.replace(full_context(2, 3, torch.float32), **{field: None})
    assert make(name).missing(context) == field
    with pytest.raises(ValueError, match=rf"loss '{name}' needs LossContext\.{field}, found None"):
        make(name)(LOGITS, LABELS, context)


def test_dor_needs_class_features_to_rank_words():
    loss = make("dor", {"nearest": 2})
    context = dataclasses.replace(full_context(2, 3), zero_shot_text_features=None)
    with pytest.raises(ValueError, match=r"loss 'dor' needs LossContext\.zero_shot_text_features"):
        loss(LOGITS, LABELS, context)


@pytest.mark.parametrize(
    ("name", "field", "shape"),
    [
        ("zs_norm", "zero_shot_logits", (2, 4)),
        ("zs_penalty", "zero_shot_logits", (1, 3)),
        ("kgcoop", "zero_shot_text_features", (1, 6)),
    ],
)
def test_shapes_that_would_broadcast(name, field, shape):
    context = dataclasses.replace(full_context(2, 3), **{field: torch.ones(shape)})
    found = str(shape).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ValueError, match=rf"{field}: expected shape .+, found {found}"):
        make(name)(LOGITS, LABELS, context)


def test_mixed_labels_of_another_batch():
    context = LossContext(mixed_labels=torch.tensor([0]), mixing_weight=0.5)
    with pytest.raises(ValueError, match=r"mixed_labels: expected shape \(2,\), found \(1,\)"):
        make("mixup")(LOGITS, LABELS, context)


@pytest.mark.parametrize("similarity", [1.1, -2.0, math.nan])
def test_nucfl_wants_a_cosine(similarity):
    with pytest.raises(ValueError, match="update_similarity: expected a cosine, found"):
        make("nucfl")(LOGITS, LABELS, LossContext(update_similarity=similarity))


@pytest.mark.parametrize(
    "logits", [torch.zeros(3), torch.zeros(0, 3), torch.zeros(2, 0), torch.zeros(2, 3).long()]
)
def test_bad_logits(logits):
    with pytest.raises(ValueError, match=r"logits: expected floats of shape \(B, K\)"):
        make("cross_entropy")(logits, LABELS, LossContext())


@pytest.mark.parametrize(
    "labels", [torch.tensor([0]), torch.tensor([[0], [1]]), torch.tensor([0, 1]).int()]
)
def test_bad_labels(labels):
    with pytest.raises(ValueError, match=r"labels: expected int64 of shape \(2,\), found"):
        make("dca")(LOGITS, labels, LossContext())
