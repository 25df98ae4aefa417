"""What the contract of a tuning method puts in, takes out and compares."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.classifier import ClipClassifier

ATOL = 1e-5
"""Of features and their gradients."""
IMAGES = 4

Make = Callable[..., ClipClassifier]
"""Attaches the method to a new model; takes a seed."""


def moved(classifier: ClipClassifier) -> ClipClassifier:
    """Move everything that travels away from where it starts."""
    rng = torch.Generator().manual_seed(3)
    classifier.restore(
        {
            name: tensor + 0.1 * torch.randn(tensor.shape, generator=rng)
            for name, tensor in classifier.export().items()
        }
    )
    return classifier


def other_personal(classifier: ClipClassifier) -> Adapter:
    """Return a personal part with other values than a new client's."""
    rng = torch.Generator().manual_seed(5)
    own = classifier.export_personal()
    return {name: torch.randn(tensor.shape, generator=rng) for name, tensor in own.items()}


def some_pixels(classifier: ClipClassifier) -> Tensor:
    """Return ``(IMAGES, 3, S, S)`` noise."""
    side = classifier.preprocessing.size
    return torch.randn(IMAGES, 3, side, side, generator=torch.Generator().manual_seed(1))


def some_labels(classifier: ClipClassifier) -> Tensor:
    """Return ``(IMAGES,)`` labels."""
    return torch.arange(IMAGES) % len(classifier.class_names)


@torch.no_grad()
def logits_of(classifier: ClipClassifier) -> Tensor:
    """Return the logits of ``some_pixels``."""
    found: Tensor = classifier(some_pixels(classifier))
    return found


def with_gradients(
    classifier: ClipClassifier, what: str, pixels: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Return what ``encode_images`` or ``encode_classes`` returns; see ``gradients_of``."""
    if what == "encode_images":
        return gradients_of(classifier, lambda: classifier.encode_images(pixels))
    return gradients_of(classifier, classifier.encode_classes)


def gradients_of(
    classifier: ClipClassifier, work: Callable[[], Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Return what ``work`` returns, and the gradients of a scalar made of it."""
    result = work()
    weights = torch.randn(result.shape, generator=torch.Generator().manual_seed(2))
    if not result.requires_grad:
        return result, []
    scalar = (result * weights).mean()
    found = torch.autograd.grad(scalar, classifier.trained, allow_unused=True)
    return result.detach(), [torch.zeros(()) if g is None else g for g in found]


def assert_same_pass(
    one: tuple[Tensor, list[Tensor]], two: tuple[Tensor, list[Tensor]], message: str
) -> None:
    """Refuse two results of ``gradients_of`` that differ in values or gradients."""
    assert_close(one[0], two[0], ATOL, message)
    same = len(one[1]) == len(two[1])
    for first, second in zip(one[1], two[1], strict=False):
        same = same and torch.allclose(first, second, rtol=1e-4, atol=ATOL)
    assert same, f"{message} (in its gradients)"


def assert_close(found: Tensor, expected: Tensor, atol: float, message: str) -> None:
    """Refuse tensors that differ by more than ``atol``."""
    assert found.shape == expected.shape, f"{message} (in shape)"
    assert torch.allclose(found, expected, rtol=0, atol=atol), message


def assert_equal(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], message: str) -> None:
    """Refuse sets of named tensors that differ in a bit; ``message`` goes before the names."""
    names = sorted(found.keys() ^ expected.keys())
    names += [
        n for n in sorted(found.keys() & expected.keys()) if not torch.equal(found[n], expected[n])
    ]
    assert not names, f"{message} {', '.join(names[:5])}"
