"""ProGrad: context vectors that never unlearn what zero-shot CLIP knows.

Zhu et al. 2022, arXiv 2205.14865.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.context import ContextClassifier
from fl2ora.clip_tuning.forward_pass import ForwardPass
from fl2ora.clip_tuning.methods.base import Rates, TuningMethod
from fl2ora.clip_tuning.prompt_layout import ContextSettings
from fl2ora.experiment.arguments import number, whole


class ProGrad(TuningMethod):
    """CoOp whose gradients lose what opposes the zero-shot predictions.

    With g the gradient of everything that is minimised and h that of the divergence from the
    zero-shot predictions, tensor by tensor: where ``<g, h> < 0``, g loses ``strength`` times its
    part along h. 8,192 parameters on ViT-B/16.

    Args:
        length: how many vectors.
        strength: lambda of the paper; 1 removes the opposing part, 0 is CoOp.
        temperature: of both softmaxes in the divergence.
        init: see ``coop``; vectors beyond the words start at zero, as in the authors' code.
    """

    learning_rates = Rates(
        embedded=0.03,
        published=0.002,
        source="CoOp's, on whose code it builds: SGD",
    )

    def __init__(
        self,
        length: int = 16,
        strength: float = 1.0,
        temperature: float = 1.0,
        init: str = "template",
    ) -> None:
        self.settings = ContextSettings(whole("length", length, at_least=1), init, extra="zeros")
        self.strength = number("strength", strength, at_least=0)
        self.temperature = number("temperature", temperature, above=0)

    def attach(
        self, clip: Clip, class_names: Sequence[str], templates: Sequence[str]
    ) -> ClipClassifier:
        """Tune ``context (n, d)``."""
        classifier = _AlignedClassifier(clip, class_names, templates, self.settings)
        classifier.strength, classifier.temperature = self.strength, self.temperature
        return classifier.tune_own(images_frozen=True)


class _AlignedClassifier(ContextClassifier):
    """Context vectors with ProGrad's gradients."""

    strength: float
    temperature: float

    def divergence(self, passed: ForwardPass) -> Tensor:
        """Return ``KL(zero-shot || tuned)`` of the predictions, the mean over the batch."""
        with torch.no_grad():  # the image tower is untouched
            zero_shot = self.zero_shot_logits(passed.images, self.guides)
        ours, theirs = (
            (logits / self.temperature).log_softmax(dim=1) for logits in (passed.logits, zero_shot)
        )
        divergence = kl_div(ours, theirs, reduction="batchmean", log_target=True)
        return self.temperature**2 * divergence

    def backward(self, objective: Tensor, passed: ForwardPass) -> None:
        """Fill the gradients of ``objective`` and take out what opposes the divergence's."""
        tuned = [*self.tuned.values()]
        guides = torch.autograd.grad(
            self.divergence(passed), tuned, retain_graph=True, allow_unused=True
        )
        objective.backward()
        for parameter, guide in zip(tuned, guides, strict=True):
            if parameter.grad is not None and guide is not None:
                parameter.grad = aligned(parameter.grad, guide, self.strength)


def aligned(gradient: Tensor, guide: Tensor, strength: float = 1.0) -> Tensor:
    """Return ``gradient`` less ``strength`` times its part along ``guide`` if they oppose.

    Args:
        gradient: any shape, taken as one vector.
        guide: of the same shape.
        strength: 1 leaves the two orthogonal.
    """
    opposition = (gradient * guide).sum()
    length = (guide * guide).sum()
    if opposition >= 0 or length == 0:
        return gradient
    return gradient - strength * opposition / length * guide
