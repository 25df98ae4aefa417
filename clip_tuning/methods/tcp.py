"""TCP: class features turned into tokens of the class prompts.

Yao, Zhang, Xu 2023, arXiv 2311.18231.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from transformers.activations import QuickGELUActivation

from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.methods._sizes import hidden_units
from fl2ora.clip_tuning.methods.base import Rates, TuningMethod
from fl2ora.clip_tuning.methods.kgcoop import GuidedClassifier
from fl2ora.clip_tuning.prompt_layout import ContextSettings
from fl2ora.clip_tuning.towers import blocks, width
from fl2ora.experiment.arguments import number, whole


class TCP(TuningMethod):
    """KgCoOp plus class tokens from a network on zero-shot class features: 331,904 parameters.

    The network (one hidden layer, D / reduction wide) makes ``length`` tokens for every class. They
    replace the context before one block of the text tower.

    Args:
        length: how many context vectors and class tokens.
        weight: of KgCoOp's regulariser.
        block: index of the text block before which they are put; 0 stands for two thirds of the
            blocks, 8 of 12.
        reduction: the hidden layer has D / reduction units.
        init: see ``coop``.
    """

    learning_rates = Rates(
        embedded=0.03,
        published=0.002,
        source="KgCoOp's SGD; Yao et al. 2023 have the same number for Adam",
    )

    def __init__(
        self,
        length: int = 4,
        weight: float = 8.0,
        block: int = 0,
        reduction: int = 4,
        init: str = "template",
    ) -> None:
        self.settings = ContextSettings(whole("length", length, at_least=1), init)
        self.weight = number("weight", weight, at_least=0)
        self.block = whole("block", block, at_least=0)
        self.reduction = whole("reduction", reduction, at_least=1)

    def attach(
        self, clip: Clip, class_names: Sequence[str], templates: Sequence[str]
    ) -> ClipClassifier:
        """Tune ``context (n, d)`` and the network ``class_tokens``.

        Raises:
            ValueError: the model has no such block, or the reduction leaves no unit.
        """
        count, size = len(blocks(clip.model, "text")), clip.feature_size
        if count < 2 or self.block >= count:
            raise ValueError(
                f"block: expected one of the model's text blocks 1 to {count - 1}, "
                f"found {self.block}"
            )
        hidden = hidden_units(size, self.reduction)
        classifier = _TokenClassifier(clip, class_names, templates, self.settings)
        classifier.weight = self.weight
        classifier.block = self.block or injection_block(count)
        classifier.class_tokens = nn.Sequential(
            nn.Linear(size, hidden),
            QuickGELUActivation(),
            nn.Linear(hidden, self.settings.length * width(clip.model, "text")),
        )
        return classifier.tune_own(images_frozen=True)


class _TokenClassifier(GuidedClassifier):
    """Class tokens before one block of the text tower."""

    block: int
    class_tokens: nn.Sequential

    def deep_text(self, names: Sequence[str] | None = None) -> dict[int, Tensor]:
        """Return the class tokens ``(K, n, d)`` by the block they go before."""
        guides = self.guides if names is None else self.zero_shot_names(names)
        tokens: Tensor = self.class_tokens(guides)
        return {self.block: tokens.view(len(tokens), -1, self.context.shape[-1])}


def injection_block(count: int) -> int:
    """Return the block index at two thirds of ``count`` blocks, at least 1: 8 of 12."""
    return max(1, 2 * count // 3)
