"""MaPLe: vision prompts that are linear functions of the text prompts.

Khattak et al. 2022, arXiv 2210.03117.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fl2ora.clip_tuning.classifier import ClipClassifier, unit
from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.context import ContextClassifier, noise
from fl2ora.clip_tuning.methods.base import Rates, TuningMethod
from fl2ora.clip_tuning.prompt_layout import ContextSettings
from fl2ora.clip_tuning.selection import chosen_depth
from fl2ora.clip_tuning.towers import TOWERS, encode_image, width
from fl2ora.experiment.arguments import whole


class MaPLe(TuningMethod):
    """Tune text prompts and one linear map per block: 3,555,072 parameters on ViT-B/16.

    A message is 14.2 MB there, 19 times LoRA of rank 2.

    Args:
        length: prompts per block.
        depth: blocks from the input with prompts of their own; 0 stands for three quarters of
            them, 9 of 12.
        init: of the text prompts at the input, see ``coop``; those of later blocks are noise.
    """

    learning_rates = Rates(
        embedded=0.3,
        published=0.0035,
        source="Khattak et al. 2022: SGD",
    )

    def __init__(self, length: int = 2, depth: int = 0, init: str = "template") -> None:
        self.settings = ContextSettings(whole("length", length, at_least=1), init)
        self.depth = whole("depth", depth, at_least=0)

    def attach(
        self, clip: Clip, class_names: Sequence[str], templates: Sequence[str]
    ) -> ClipClassifier:
        """Tune ``context (n, d)``, ``text_prompts`` of later blocks, and ``couplings``.

        Raises:
            ValueError: a tower has fewer blocks.
        """
        depth = chosen_depth(clip.model, self.depth, TOWERS, twelfths=9)
        classifier = _CoupledClassifier(clip, class_names, templates, self.settings)
        text, vision = (width(clip.model, tower) for tower in ("text", "vision"))
        deep = noise(depth - 1, self.settings.length, text, like=classifier.context)
        classifier.text_prompts = nn.Parameter(deep) if depth > 1 else None
        classifier.couplings = nn.ModuleList([nn.Linear(text, vision) for _ in range(depth)])
        return classifier.tune_own()


class _CoupledClassifier(ContextClassifier):
    """Text prompts and what they are in the vision tower."""

    text_prompts: nn.Parameter | None
    couplings: nn.ModuleList

    def deep_text(self, names: Sequence[str] | None = None) -> dict[int, Tensor]:
        """Return the text prompts ``(n, d)`` by block index."""
        return {} if self.text_prompts is None else dict(enumerate(self.text_prompts, start=1))

    def vision_prompts(self) -> dict[int, Tensor]:
        """Return the vision prompts ``(n, d)`` by block index."""
        text = {0: self.context, **self.deep_text()}
        return {index: self.couplings[index](prompts) for index, prompts in text.items()}

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Return ``(B, D)`` unit features of ``pixels (B, 3, H, W)``."""
        return unit(encode_image(self.clip, pixels, self.vision_prompts()))
