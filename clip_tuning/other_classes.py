"""A tuned model as a classifier of other classes than those it is tuned on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fl2ora.clip_tuning.build import build_classifier
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.experiment.errors import UserError, listed


def for_other_classes(
    classifier: ClipClassifier,
    model: str,
    method: str,
    class_names: Sequence[str],
    templates: Sequence[str],
    seed: int,
) -> ClipClassifier:
    """Return a classifier of the same model and method for other classes, on the same device.

    What neither trains is kept once for both. It holds its initial parameters: whoever uses it
    restores an adapter first.

    Args:
        classifier: the one in training, or a zero-shot one.
        model: see ``build_classifier``.
        method: see ``build_classifier``.
        class_names: of the other classes.
        templates: for their prompts.
        seed: of the run.
    """
    other = build_classifier(model, method, class_names, templates, seed)
    other.to(classifier.clip.device)
    _share_frozen(other, classifier)
    return other


def check_free_of_classes(classifier: ClipClassifier, model: str, method: str, seed: int) -> None:
    """Refuse a method whose tensors belong to the classes it was built with.

    Raises:
        UserError: it has such tensors; the message names them.
    """
    names = [*classifier.class_names, "another thing"]
    more = build_classifier(model, method, names, classifier.templates, seed)
    here, there = _shapes(classifier), _shapes(more)
    bound = sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name))
    if bound:
        raise UserError(
            f"method {method!r}: expected one whose tensors serve any classes, because the "
            f"protocol measures classes that are not trained on, found {listed(bound[:3])} "
            "made for the trained ones"
        )


def _shapes(classifier: ClipClassifier) -> dict[str, tuple[int, ...]]:
    tensors = {**classifier.export(), **classifier.export_personal()}
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


@torch.no_grad()
def _share_frozen(other: ClipClassifier, classifier: ClipClassifier) -> None:
    """Let ``other`` hold the very tensors of ``classifier`` where nothing will change them."""
    moving = {
        id(tensor)
        for model in (other, classifier)
        for tensor in [*model.trained, *model.carried.values()]
    }
    known: dict[str, Tensor] = dict(classifier.clip.named_parameters())
    for name, parameter in other.clip.named_parameters():
        same = known.get(name)
        if same is None or {id(parameter), id(same)} & moving:
            continue
        if same.shape == parameter.shape and torch.equal(same, parameter):
            parameter.data = same.data
