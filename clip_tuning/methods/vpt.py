"""VPT: learned tokens beside the image patches.

Jia et al. 2022, arXiv 2203.12119, on CLIP as in the code of MaPLe (Khattak et al. 2022, arXiv
2210.03117).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fl2ora.clip_tuning.classifier import ClipClassifier, unit
from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.context import noise
from fl2ora.clip_tuning.methods.base import Rates, TuningMethod
from fl2ora.clip_tuning.selection import chosen_depth
from fl2ora.clip_tuning.towers import encode_image, width
from fl2ora.experiment.arguments import whole


class VPT(TuningMethod):
    """Tune vision prompts: on ViT-B/16 73,728 parameters deep, 6,144 shallow.

    Args:
        length: prompts per block.
        depth: blocks from the input with prompts of their own; 1 is VPT-shallow, 0 stands for all
            blocks, VPT-deep.
    """

    learning_rates = Rates(
        embedded=0.03,
        published=0.0025,
        source="MaPLe's code for VPT: SGD",
    )

    def __init__(self, length: int = 8, depth: int = 0) -> None:
        self.length = whole("length", length, at_least=1)
        self.depth = whole("depth", depth, at_least=0)

    def attach(
        self, clip: Clip, class_names: Sequence[str], templates: Sequence[str]
    ) -> ClipClassifier:
        """Tune ``vision_prompts (depth, length, d)``, noise at first.

        Raises:
            ValueError: the vision tower has fewer blocks.
        """
        depth = chosen_depth(clip.model, self.depth, ("vision",), twelfths=12)
        classifier = _VisionPromptClassifier(clip, class_names, templates)
        classifier.vision_prompts = nn.Parameter(
            noise(depth, self.length, width(clip.model, "vision"), like=clip.model.logit_scale)
        )
        return classifier.tune_own(classes_frozen=True)


class _VisionPromptClassifier(ClipClassifier):
    """Vision prompts."""

    vision_prompts: nn.Parameter

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Return ``(B, D)`` unit features of ``pixels (B, 3, H, W)``."""
        return unit(encode_image(self.clip, pixels, dict(enumerate(self.vision_prompts))))
