"""Full fine-tuning: every weight of the towers."""

from __future__ import annotations

from collections.abc import Sequence

from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.methods.base import Rates, TuningMethod
from fl2ora.clip_tuning.selection import TOWER_CHOICES, chosen_towers
from fl2ora.experiment.arguments import choice

_PARTS = {"vision": ("vision_model.", "visual_projection."), "text": ("text_",)}


class Full(TuningMethod):
    """Tune all weights of one or both towers, projections included; the logit scale stays.

    On ViT-B/16 both towers have 149,620,736 parameters, 600 MB a message. The first logits are
    zero-shot CLIP's.

    Args:
        towers: ``both``, ``vision`` or ``text``.
    """

    learning_rates = Rates(
        embedded=0.003,
        published=0.0001,
        source="none for SGD (AdamW 3e-5 in Wortsman et al. 2021): a tenth of LoRA's",
    )

    def __init__(self, towers: str = "both") -> None:
        self.towers = chosen_towers(choice("towers", towers, TOWER_CHOICES))

    def attach(
        self, clip: Clip, class_names: Sequence[str], templates: Sequence[str]
    ) -> ClipClassifier:
        """Tune the towers; names are CLIP's own."""
        parts = tuple(part for tower in self.towers for part in _PARTS[tower])
        return ClipClassifier(clip, class_names, templates).tune(
            {n: p for n, p in clip.model.named_parameters() if n.startswith(parts)},
            images_frozen="vision" not in self.towers,
            classes_frozen="text" not in self.towers,
        )
