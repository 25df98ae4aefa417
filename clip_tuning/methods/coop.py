"""CoOp: context vectors in the class prompts; federated, it is PromptFL.

Zhou et al. 2021, arXiv 2109.01134; PromptFL, Guo et al. 2022, arXiv 2208.11625.
"""

from __future__ import annotations

from collections.abc import Sequence

from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.context import ContextClassifier
from fl2ora.clip_tuning.methods.base import Rates, TuningMethod
from fl2ora.clip_tuning.prompt_layout import POSITIONS, ContextSettings
from fl2ora.experiment.arguments import choice, whole


class CoOp(TuningMethod):
    """Tune the context alone: ``length * d`` parameters, 8,192 for 16 vectors on ViT-B/16.

    With ``init='template'`` and no more vectors than the template has tokens before ``{}``, the
    first logits are zero-shot CLIP's (of the first template).

    Args:
        length: how many vectors.
        init: ``noise``; ``template``: the words before ``{}`` in the data's first template; or
            words, such as ``a photo of a``. Vectors beyond the words are noise and stand before
            them; words beyond the vectors stay words.
        position: of the class name: at the ``end``, in the ``middle`` or in ``front``.
        class_specific: vectors of its own for every class; K times as many parameters.
    """

    learning_rates = Rates(
        embedded=0.03,
        published=0.002,
        source="Zhou et al. 2021: SGD",
    )

    def __init__(
        self,
        length: int = 16,
        init: str = "noise",
        position: str = "end",
        class_specific: bool = False,
    ) -> None:
        self.settings = ContextSettings(
            whole("length", length, at_least=1),
            init,
            choice("position", position, POSITIONS),
            class_specific,
        )

    def attach(
        self, clip: Clip, class_names: Sequence[str], templates: Sequence[str]
    ) -> ClipClassifier:
        """Tune ``context``, ``(n, d)`` or, if class-specific, ``(K, n, d)``."""
        classifier = ContextClassifier(clip, class_names, templates, self.settings)
        return classifier.tune_own(images_frozen=True)
