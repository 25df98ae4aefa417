"""Zero-shot CLIP: nothing is tuned, nothing travels."""

from __future__ import annotations

from collections.abc import Sequence

from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.methods.base import NOTHING_TRAINED, TuningMethod


class ZeroShot(TuningMethod):
    """The baseline that trains nothing (Radford et al. 2021, arXiv 2103.00020)."""

    learning_rates = NOTHING_TRAINED

    def attach(
        self, clip: Clip, class_names: Sequence[str], templates: Sequence[str]
    ) -> ClipClassifier:
        """Return the classifier of the templates' prompts with nothing to tune."""
        return ClipClassifier(clip, class_names, templates)
