"""KgCoOp: context vectors whose class features stay near the zero-shot ones.

Yao, Zhang, Xu 2023, arXiv 2303.13283.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.context import ContextClassifier
from fl2ora.clip_tuning.forward_pass import ForwardPass
from fl2ora.clip_tuning.methods.base import Rates, TuningMethod
from fl2ora.clip_tuning.prompt_layout import ContextSettings
from fl2ora.experiment.arguments import number, whole


class KgCoOp(TuningMethod):
    """CoOp with ``weight * (1 - mean_j cos(w_j, w_j^zs))``: 2,048 parameters on ViT-B/16.

    The zero-shot features are those of all templates. The paper's squared distance of unit features
    is twice the cosine distance; the weight 8 is that of the authors' code.

    Args:
        length: how many vectors.
        weight: of the regulariser.
        init: see ``coop``.
    """

    learning_rates = Rates(
        embedded=0.03,
        published=0.002,
        source="Yao et al. 2023: SGD",
    )

    def __init__(self, length: int = 4, weight: float = 8.0, init: str = "template") -> None:
        self.settings = ContextSettings(whole("length", length, at_least=1), init)
        self.weight = number("weight", weight, at_least=0)

    def attach(
        self, clip: Clip, class_names: Sequence[str], templates: Sequence[str]
    ) -> ClipClassifier:
        """Tune ``context (n, d)``."""
        classifier = GuidedClassifier(clip, class_names, templates, self.settings)
        classifier.weight = self.weight
        return classifier.tune_own(images_frozen=True)


class GuidedClassifier(ContextClassifier):
    """Context vectors with KgCoOp's regulariser.

    Attributes:
        weight: of the regulariser.
    """

    weight: float

    def extra_loss(self, passed: ForwardPass) -> Tensor | None:
        """Return the regulariser of the class features, a scalar in ``[0, 2 * weight]``."""
        return self.weight * (1 - (passed.classes * self.guides).sum(dim=1).mean())
