"""BitFit: the biases alone.

Ben Zaken, Ravfogel, Goldberg 2021, arXiv 2106.10199.
"""

from __future__ import annotations

from collections.abc import Sequence

from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.methods.base import Rates, TuningMethod
from fl2ora.clip_tuning.selection import TOWER_CHOICES, chosen_towers
from fl2ora.experiment.arguments import choice

_BIASES = ("all", "fl2ora")
_QUERY_KEY_VALUE = ("q_proj.bias", "k_proj.bias", "v_proj.bias", "in_proj_bias")


class BitFit(TuningMethod):
    """Tune the biases of CLIP: 171,008 parameters on ViT-B/16, 124,928 as FL2oRA's code does.

    The first logits are zero-shot CLIP's. The bias of k has no effect on attention, which its
    gradient of zero shows.

    Args:
        biases: ``all``, or ``fl2ora``: all but those of q, k and v, which the code of FL2oRA
            (Singha et al. 2025, arXiv 2512.04305) passes over.
        towers: ``both``, ``vision`` or ``text``.
    """

    learning_rates = Rates(
        embedded=0.3,
        published=0.001,
        source="FL2oRA's code (Singha et al. 2025): SGD",
    )

    def __init__(self, biases: str = "all", towers: str = "both") -> None:
        self.left_out = _QUERY_KEY_VALUE if choice("biases", biases, _BIASES) == "fl2ora" else ()
        self.towers = chosen_towers(choice("towers", towers, TOWER_CHOICES))

    def attach(
        self, clip: Clip, class_names: Sequence[str], templates: Sequence[str]
    ) -> ClipClassifier:
        """Tune the biases; names are CLIP's own."""
        tuned = {
            name: parameter
            for name, parameter in clip.model.named_parameters()
            if name.endswith((".bias", ".in_proj_bias"))  # the latter in SigLIP's pooling head
            and name.split("_")[0] in self.towers
            and not name.endswith(self.left_out)
        }
        return ClipClassifier(clip, class_names, templates).tune(
            tuned,
            images_frozen="vision" not in self.towers,
            classes_frozen="text" not in self.towers,
        )
