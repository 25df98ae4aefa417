"""The losses that look at text features: what they encode, draw and leave out."""

import dataclasses
import math

import pytest
import torch
from losses_cases import full_context, make, random_encoder

from fl2ora.calibration.losses._nouns import NOUNS
from fl2ora.calibration.losses.base import LossContext

LOGITS, LABELS = torch.zeros(1, 3), torch.tensor([0])


class Recorder:
    """An encoder that turns every tuned feature by ``angle`` and keeps the words it was given."""

    def __init__(self, angle=0.0):
        self.angle, self.calls = angle, []

    def __call__(self, words):
        self.calls.append(tuple(words))
        frozen = torch.tensor([[1.0, 0.0]]).repeat(len(words), 1)
        tuned = torch.tensor([[math.cos(self.angle), math.sin(self.angle)]])
        return tuned.repeat(len(words), 1), frozen


def draws(loss, steps=3, **fields):
    encoder = Recorder()
    for _ in range(steps):
        loss(LOGITS, LABELS, LossContext(encode_texts=encoder, **fields))
    return encoder.calls


@pytest.mark.parametrize("angle", [0.0, 0.5, math.pi])
def test_dor_is_the_cosine_distance(angle):
    value = make("dor")(LOGITS, LABELS, LossContext(encode_texts=Recorder(angle)))
    assert value.item() == pytest.approx(1 - math.cos(angle), abs=1e-6)


def test_dor_is_the_mean_over_the_words():
    words = "gate, oak, pond"
    tuned, frozen = random_encoder(torch.float64)(["gate", "oak", "pond"])
    cosines = [
        (t @ f / math.sqrt((t @ t) * (f @ f))).item() for t, f in zip(tuned, frozen, strict=True)
    ]
    context = full_context(1, 3)
    value = make("dor", {"words": words})(LOGITS, LABELS, context)
    assert value.item() == pytest.approx(1 - sum(cosines) / 3, abs=1e-12)


def test_dor_draws_are_new_at_each_step_and_equal_for_equal_seeds():
    first = draws(make("dor"))
    assert first == draws(make("dor"))
    assert len(set(first)) == 3
    assert all(len(call) == len(set(call)) == 32 and set(call) <= set(NOUNS) for call in first)
    assert first != draws(make("dor", {"seed": 1}))
    assert first != draws(make("dor"), seed=1)


def test_dor_leaves_the_global_random_state_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    draws(make("dor"))
    assert torch.equal(torch.rand(1), expected)


def test_dor_never_draws_a_class_name():
    loss = make("dor", {"words": "oak,fire engine,T-shirt, pond,oak", "sample": 9})
    calls = draws(loss, class_names=("Fire_Engine", "t shirt", "sky"))
    assert {tuple(sorted(call)) for call in calls} == {("oak", "pond")}


def test_dor_without_a_word_left():
    with pytest.raises(ValueError, match="words: expected a word that names no class, found none"):
        draws(make("dor", {"words": "oak"}), class_names=("Oak",))


def test_dor_keeps_the_words_nearest_to_a_class():
    directions = {"oak": (1.0, 0.0), "elm": (0.9, 0.1), "car": (0.0, 1.0), "bus": (-1.0, 0.0)}

    def encode(words):
        assert not torch.is_grad_enabled() or len(words) == 2
        frozen = torch.tensor([directions[word] for word in words])
        seen.append(tuple(words))
        return frozen, frozen

    seen = []
    loss = make("dor", {"words": "bus,car,elm,oak", "nearest": 2, "sample": 5})
    classes = torch.tensor([[1.0, 0.2], [1.0, -0.3]])
    for _ in range(2):
        loss(LOGITS, LABELS, LossContext(encode_texts=encode, zero_shot_text_features=classes))
    assert seen[0] == ("bus", "car", "elm", "oak")
    assert [set(call) for call in seen[1:]] == [{"elm", "oak"}] * 2


def test_dor_asks_for_class_features_only_to_rank_words():
    assert make("dor").needs == {"encode_texts", "class_names", "seed"}
    assert make("dor", {"nearest": 5}).needs == {
        "encode_texts",
        "class_names",
        "seed",
        "zero_shot_text_features",
    }


def test_built_in_nouns():
    assert len(NOUNS) == len(set(NOUNS)) >= 300
    assert all(noun.isalpha() and noun == noun.lower() for noun in NOUNS)


@pytest.mark.parametrize("name", ["kgcoop", "dispersion"])
def test_features_need_not_be_of_unit_length(name):
    context = full_context(1, 3)
    longer = dataclasses.replace(
        context,
        text_features=3 * context.text_features,
        zero_shot_text_features=0.5 * context.zero_shot_text_features,
    )
    first, second = (make(name)(LOGITS, LABELS, c) for c in (context, longer))
    torch.testing.assert_close(first, second)


def test_kgcoop_moves_tuned_features_alone():
    context = full_context(1, 3)
    context.text_features.requires_grad_()
    context.zero_shot_text_features.requires_grad_()
    make("kgcoop")(LOGITS, LABELS, context).backward()
    assert context.text_features.grad.abs().max() > 0
    assert context.zero_shot_text_features.grad is None


def test_dor_moves_tuned_features_alone():
    tuned, frozen = (torch.randn(3, 4).requires_grad_() for _ in range(2))
    context = LossContext(encode_texts=lambda words: (tuned, frozen))
    make("dor", {"words": "gate,oak,pond"})(LOGITS, LABELS, context).backward()
    assert tuned.grad.abs().max() > 0
    assert frozen.grad is None


@pytest.mark.parametrize("form", ["distance", "orthogonality", "gram"])
def test_features_at_right_angles_disperse_better_than_equal_ones(form):
    values = [
        make("dispersion", {"form": form})(LOGITS, LABELS, LossContext(text_features=features))
        for features in (torch.eye(3), torch.ones(3, 3))
    ]
    assert values[0] < values[1] - 0.5
    if form != "distance":
        assert values[0] == 0


@pytest.mark.parametrize("name", ["zs_norm", "zs_penalty"])
def test_zero_shot_logits_get_no_gradient(name):
    logits = torch.tensor([[30.0, 1, 0]], requires_grad=True)
    zero_shot = torch.tensor([[3.0, 2, 1]], requires_grad=True)
    make(name)(logits, torch.tensor([1]), LossContext(zero_shot_logits=zero_shot)).backward()
    assert zero_shot.grad is None
    assert logits.grad.abs().max() > 0
