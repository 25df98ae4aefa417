"""CLIP as a classifier of images among named classes, and what of it is tuned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from clip_tuning.adapter import Adapter, as_adapter, check_finite, check_like
from clip_tuning.clip import Clip
from clip_tuning.prompts import fill_templates, tokenise


class ClipClassifier(nn.Module):
    """Scores images ``(B, 3, H, W)`` against K classes: ``exp(logit_scale) * cos(image, class)``.

    The features of a class are the mean of its templates' unit features, normalised again.

    Attributes:
        clip: the transformers model, frozen but for ``tuned``.
        class_names: K names.
        preprocessing: from raw bytes to the input of ``forward``.
        tuned: the parameters in training by the names under which they travel.
    """

    prompt_ids: Tensor

    def __init__(self, clip: Clip, class_names: Sequence[str], templates: Sequence[str]) -> None:
        """Freeze ``clip`` and prepare the prompts of all classes; nothing is tuned yet."""
        super().__init__()
        self.clip = clip.model.requires_grad_(False)
        self.preprocessing = clip.preprocessing
        self.class_names = tuple(class_names)
        self.tuned: Mapping[str, nn.Parameter] = {}
        texts = fill_templates(class_names, templates)
        longest = int(clip.model.config.text_config.max_position_embeddings)
        self.register_buffer(
            "prompt_ids", tokenise(clip.tokenizer, texts, longest), persistent=False
        )

    def tune(self, parameters: Mapping[str, nn.Parameter]) -> ClipClassifier:
        """Make ``parameters`` the ones in training, everything else frozen."""
        self.requires_grad_(False)
        self.tuned = {name: parameters[name] for name in sorted(parameters)}
        for parameter in self.tuned.values():
            parameter.requires_grad_(True)
        return self

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Return ``(B, D)`` unit features of ``pixels (B, 3, H, W)``."""
        return _unit(self.clip.get_image_features(pixel_values=pixels).pooler_output)

    def encode_classes(self) -> Tensor:
        """Return ``(K, D)`` unit features of the classes' prompts."""
        features = _unit(self.clip.get_text_features(input_ids=self.prompt_ids).pooler_output)
        per_class = features.view(len(self.class_names), -1, features.shape[-1])
        return per_class[:, 0] if per_class.shape[1] == 1 else _unit(per_class.mean(dim=1))

    def logits(self, images: Tensor, classes: Tensor) -> Tensor:
        """Return ``(B, K)`` float32 logits of unit features ``(B, D)`` and ``(K, D)``."""
        scale: Tensor = self.clip.logit_scale.exp()
        return scale * images.float() @ classes.float().T

    def forward(self, pixels: Tensor) -> Tensor:
        """Return ``(B, K)`` logits of ``pixels (B, 3, H, W)``."""
        return self.logits(self.encode_images(pixels), self.encode_classes())

    def export(self) -> Adapter:
        """Return float32 CPU copies of what is tuned."""
        return as_adapter(self.tuned)

    def restore(self, adapter: Mapping[str, Tensor]) -> None:
        """Load every tuned parameter from ``adapter``.

        Raises:
            AdapterError: missing, unexpected or misshapen names, or values that are not finite;
                nothing is changed then.
        """
        check_like(adapter, self.tuned, "adapter")
        check_finite(adapter, "adapter")
        with torch.no_grad():
            for name, parameter in self.tuned.items():
                parameter.copy_(adapter[name])


def _unit(features: Tensor) -> Tensor:
    return normalize(features.float(), dim=-1)
