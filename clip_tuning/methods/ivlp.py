"""IVLP: prompts in both towers, each on its own.

Rasheed et al. 2022, arXiv 2212.03640, as in the code of PromptSRC (Khattak et al. 2023, arXiv
2307.06948).
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


class IVLP(TuningMethod):
    """Tune text and vision prompts: 23,040 parameters on ViT-B/16, 30,720 with all 12 blocks.

    Args:
        length: prompts per block and tower.
        depth: blocks from the input with prompts of their own; 0 stands for three quarters of
            them, 9 of 12.
        init: of the text prompts at the input, see ``coop``; all others are noise.
    """

    learning_rates = Rates(
        embedded=0.03,
        published=0.0035,
        source="MaPLe's code for IVLP: SGD",
    )

    def __init__(self, length: int = 2, depth: int = 0, init: str = "template") -> None:
        self.settings = ContextSettings(whole("length", length, at_least=1), init)
        self.depth = whole("depth", depth, at_least=0)

    def attach(
        self, clip: Clip, class_names: Sequence[str], templates: Sequence[str]
    ) -> ClipClassifier:
        """Tune ``context (n, d)``, ``text_prompts`` of later blocks, and ``vision_prompts``.

        Raises:
            ValueError: a tower has fewer blocks.
        """
        classifier = TwoTowerClassifier(clip, class_names, templates, self.settings, self.depth)
        return classifier.tune_own()


class TwoTowerClassifier(ContextClassifier):
    """Prompts in both towers.

    Attributes:
        text_prompts: ``(depth - 1, n, d)`` for the text blocks from index 1; None with depth 1.
        vision_prompts: ``(depth, n, d)``.
    """

    text_prompts: nn.Parameter | None

    def __init__(
        self,
        clip: Clip,
        class_names: Sequence[str],
        templates: Sequence[str],
        settings: ContextSettings,
        depth: int,
    ) -> None:
        """Draw the prompts."""
        super().__init__(clip, class_names, templates, settings)
        depth, length = chosen_depth(clip.model, depth, TOWERS, twelfths=9), settings.length
        vision, text = (
            nn.Parameter(noise(count, length, width(clip.model, tower), like=self.context))
            for tower, count in (("vision", depth), ("text", depth - 1))
        )
        self.vision_prompts, self.text_prompts = vision, text if depth > 1 else None

    def deep_text(self, names: Sequence[str] | None = None) -> dict[int, Tensor]:
        """Return the text prompts ``(n, d)`` by block index."""
        return {} if self.text_prompts is None else dict(enumerate(self.text_prompts, start=1))

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Return ``(B, D)`` unit features of ``pixels (B, 3, H, W)``."""
        return unit(encode_image(self.clip, pixels, dict(enumerate(self.vision_prompts))))
