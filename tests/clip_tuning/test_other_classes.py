"""A tuned model as a classifier of classes it was not tuned on."""

from __future__ import annotations

import pytest
import torch

from fl2ora.clip_tuning.build import build_classifier
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.clip_tuning.other_classes import check_free_of_classes, for_other_classes
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import available
from method_laws import changed, logits_of

NAMES, OTHERS, TEMPLATES = ("cat", "dog", "star"), ("house", "arrow"), ("a picture of a {}.",)
BOUND = {"linear_probe", "task_res", "tip_adapter", "tip_adapter_f"}


def build(method: str, names: tuple[str, ...] = NAMES) -> ClipClassifier:
    return build_classifier("embedded", method, names, TEMPLATES, 0)


def for_others(classifier: ClipClassifier, method: str) -> ClipClassifier:
    return for_other_classes(classifier, "embedded", method, OTHERS, TEMPLATES, 0)


@pytest.mark.parametrize(
    "method", [*available(TuningMethod), "coop(class_specific=True)", "logit_scale('task_res')"]
)
def test_a_method_whose_tensors_belong_to_classes_is_told(method: str) -> None:
    bound = method in BOUND or "class_specific" in method or "task_res" in method
    classifier = build(method)
    if not bound:
        check_free_of_classes(classifier, "embedded", method, 0)
        return
    with pytest.raises(UserError) as caught:
        check_free_of_classes(classifier, "embedded", method, 0)
    assert str(caught.value).startswith(f"method {method!r}: expected one whose tensors serve any")
    assert "made for the trained ones" in str(caught.value)


@pytest.mark.parametrize(
    "method", sorted(set(available(TuningMethod)) - BOUND - {"lora_residual", "zero_shot"})
)
def test_it_scores_as_one_built_for_these_classes_alone(method: str) -> None:
    classifier = changed(build(method), 0.05)
    adapter, before = classifier.export(), logits_of(classifier)
    other, alone = for_others(classifier, method), build(method, OTHERS)
    for model in (other, alone):
        model.restore(adapter)
    assert torch.equal(logits_of(other), logits_of(alone))
    assert logits_of(other).shape == (4, 2)
    assert torch.equal(logits_of(classifier), before)


def test_what_is_not_trained_is_kept_once() -> None:
    classifier = build("lora")
    other = for_others(classifier, "lora")
    tuned = {id(parameter) for parameter in other.trained}
    known = dict(classifier.clip.named_parameters())
    for name, parameter in other.clip.named_parameters():
        shared = parameter.data_ptr() == known[name].data_ptr()
        assert shared == (id(parameter) not in tuned), name
    whole, theirs = build("full"), None
    theirs = for_others(whole, "full")
    known = dict(whole.clip.named_parameters())
    assert not any(
        p.data_ptr() == known[n].data_ptr() for n, p in theirs.clip.named_parameters()
        if id(p) in {id(q) for q in theirs.trained}
    )  # fmt: skip


def test_restoring_one_leaves_the_other_alone() -> None:
    classifier = build("lora")
    other = for_others(classifier, "lora")
    before = logits_of(classifier)
    other.restore({name: tensor + 0.1 for name, tensor in other.export().items()})
    assert torch.equal(logits_of(classifier), before)
