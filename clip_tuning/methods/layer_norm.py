"""LayerNorm tuning: the scales and shifts of CLIP's normalisations.

The ``ln`` option of FL2oRA's code (Singha et al. 2025, arXiv 2512.04305).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.methods.base import Rates, TuningMethod
from fl2ora.clip_tuning.selection import TOWER_CHOICES, chosen_towers
from fl2ora.experiment.arguments import choice


class LayerNorm(TuningMethod):
    """Tune every LayerNorm's weight and bias: 65,536 parameters on ViT-B/16.

    The first logits are zero-shot CLIP's.

    Args:
        towers: ``both``, ``vision`` or ``text``.
    """

    learning_rates = Rates(
        embedded=0.3,
        published=0.001,
        source="FL2oRA's code (Singha et al. 2025): SGD",
    )

    def __init__(self, towers: str = "both") -> None:
        self.towers = chosen_towers(choice("towers", towers, TOWER_CHOICES))

    def attach(
        self, clip: Clip, class_names: Sequence[str], templates: Sequence[str]
    ) -> ClipClassifier:
        """Tune the normalisations; names are CLIP's own."""
        tuned = {
            f"{name}.{part}": parameter
            for name, module in clip.model.named_modules()
            if isinstance(module, nn.LayerNorm) and name.split("_")[0] in self.towers
            for part, parameter in module.named_parameters()
        }
        return ClipClassifier(clip, class_names, templates).tune(
            tuned,
            images_frozen="vision" not in self.towers,
            classes_frozen="text" not in self.towers,
        )
