"""Logit-scale tuning: CLIP's temperature, alone or beside any other method."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.methods.base import NOTHING_TRAINED, Rates, TuningMethod
from fl2ora.experiment.plugins import load

LOGIT_SCALE = "logit_scale"
"""The name under which the scale's logarithm travels."""
SCALE_FILE = "logit_scale.json"
_CARD = """
## Logit scale

The model's `logit_scale` was tuned too. peft does not load it: set it, or confidences are others.

```python
model.get_parameter("base_model.model.logit_scale").data.fill_({logarithm!r})  # of a PeftModel
```
"""


class LogitScale(TuningMethod):
    """Tune ``logit_scale`` together with what another method tunes.

    One parameter: the logarithm of what cosines are multiplied by, 100 in OpenAI's models. It
    leaves every prediction as it is and moves all confidences at once, so alone it is temperature
    scaling by federated training. It starts at CLIP's value and is not clipped.

    Its default learning rate is the other method's, if that one trains anything.

    Args:
        method: spec string of the other method, such as ``lora(rank=4)``.
    """

    learning_rates: Rates | None = Rates(
        embedded=0.03,
        published=0.03,
        source="none: the embedded model's, whose logits spread about as far",
    )

    def __init__(self, method: str = "zero_shot") -> None:
        """Load the other method.

        Raises:
            UserError: there is no such method, or its arguments are wrong.
        """
        self.method = load(method, TuningMethod)
        self.start = self.method.start
        if self.method.learning_rates != NOTHING_TRAINED:
            self.learning_rates = self.method.learning_rates

    def attach(
        self, clip: Clip, class_names: Sequence[str], templates: Sequence[str]
    ) -> ClipClassifier:
        """Attach the other method and tune the scale too, under the name ``logit_scale``."""
        classifier = self.method.attach(clip, class_names, templates)
        return classifier.tune(
            {**classifier.tuned, LOGIT_SCALE: classifier.clip.logit_scale},
            personal=classifier.personal,
            images_frozen=classifier.images_frozen,
            classes_frozen=classifier.classes_frozen,
        )

    def round_weights(self, rounds: int) -> Tensor | None:
        """Return the other method's; the scale is averaged with what that one tunes."""
        return self.method.round_weights(rounds)

    def save(self, classifier: ClipClassifier, folder: Path) -> None:
        """Write what the other method writes, everything as ``adapter.safetensors``, and the scale.

        A LoRA adapter alone would load with CLIP's old scale, and so with other confidences: the
        folder's model card says how to set the new one, of ``logit_scale.json``.
        """
        self.method.save(classifier, folder)
        super().save(classifier, folder)
        logarithm = float(classifier.tuned[LOGIT_SCALE].detach())
        content = {LOGIT_SCALE: logarithm, "before": float(classifier.zero_shot_scale.log())}
        (folder / SCALE_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        card = folder / "README.md"
        if card.is_file():  # peft's
            text = card.read_text(encoding="utf-8")
            card.write_text(text + _CARD.format(logarithm=logarithm), encoding="utf-8")


def scale_metrics(adapter: Mapping[str, Tensor]) -> dict[str, float]:
    """Return ``logit_scale``, what cosines are multiplied by, of an adapter that holds it."""
    if LOGIT_SCALE not in adapter:
        return {}
    return {LOGIT_SCALE: float(adapter[LOGIT_SCALE].double().exp())}
