"""CLIP as a classifier of images among named classes, and what of it is tuned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from clip_tuning.adapter import Adapter, as_adapter, check_finite, check_like
from clip_tuning.clip import Clip
from clip_tuning.prompts import fill_templates, tokenise

_AT_ONCE = 1024  # prompts in one pass of the text tower


@dataclass(frozen=True)
class ForwardPass:
    """What one batch went through.

    Attributes:
        pixels: ``(B, 3, H, W)``, the input.
        images: ``(B, D)`` unit features, ``encode_images(pixels)``.
        classes: ``(K, D)`` unit features, ``encode_classes()``.
        logits: ``(B, K)``, ``logits(images, classes)``.
    """

    pixels: Tensor
    images: Tensor
    classes: Tensor
    logits: Tensor


class ClipClassifier(nn.Module):
    """Scores images ``(B, 3, H, W)`` against K classes: ``exp(logit_scale) * cos(image, class)``.

    The features of a class are the mean of its templates' unit features, normalised again.

    A method with another forward overrides ``encode_images``, ``encode_classes`` or ``logits``.
    Whoever classifies may encode the classes once and the images when it likes: the logits of a
    batch are always ``logits(encode_images(pixels), encode_classes())``.

    Attributes:
        clip: the transformers model, frozen but for ``tuned``.
        class_names: K names.
        templates: with ``{}`` where a class name goes.
        tokenizer: of the text tower.
        longest_prompt: most tokens the text tower takes.
        preprocessing: from raw bytes to the input of ``forward``.
        tuned: the parameters in training by the names under which they travel.
        carried: further tensors that travel with them, set by the server and never trained.
        images_frozen: ``encode_images`` does not depend on what is tuned.
        classes_frozen: ``encode_classes`` does not depend on what is tuned.
    """

    prompt_ids: Tensor

    def __init__(self, clip: Clip, class_names: Sequence[str], templates: Sequence[str]) -> None:
        """Freeze ``clip`` and prepare the prompts of all classes; nothing is tuned yet."""
        super().__init__()
        self.clip = clip.model.requires_grad_(False)
        self.preprocessing = clip.preprocessing
        self.class_names = tuple(class_names)
        self.tuned: Mapping[str, nn.Parameter] = {}
        self.carried: Mapping[str, nn.Parameter] = {}
        self.images_frozen = self.classes_frozen = True
        self.templates, self.tokenizer = tuple(templates), clip.tokenizer
        self.longest_prompt = int(clip.model.config.text_config.max_position_embeddings)
        self.register_buffer("prompt_ids", self._tokenise(class_names), persistent=False)

    def tune(
        self,
        parameters: Mapping[str, nn.Parameter],
        *,
        images_frozen: bool = False,
        classes_frozen: bool = False,
    ) -> ClipClassifier:
        """Make ``parameters`` the ones in training, everything else frozen.

        Args:
            parameters: by the names under which they travel.
            images_frozen: promise that ``encode_images`` does not depend on them.
            classes_frozen: promise that ``encode_classes`` does not depend on them.
        """
        self.requires_grad_(False)
        self.tuned = {name: parameters[name] for name in sorted(parameters)}
        self.images_frozen, self.classes_frozen = images_frozen, classes_frozen
        for parameter in self.tuned.values():
            parameter.requires_grad_(True)
        return self

    def tune_own(
        self, *, images_frozen: bool = False, classes_frozen: bool = False
    ) -> ClipClassifier:
        """Train every parameter that is this classifier's own and none of CLIP's; see ``tune``."""
        own = {n: p for n, p in self.named_parameters() if not n.startswith("clip.")}
        return self.tune(own, images_frozen=images_frozen, classes_frozen=classes_frozen)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Return ``(B, D)`` unit features of ``pixels (B, 3, H, W)``."""
        return unit(self.clip.get_image_features(pixel_values=pixels).pooler_output)

    def encode_classes(self) -> Tensor:
        """Return ``(K, D)`` unit features of the classes' prompts."""
        return self._encode_prompts(self.prompt_ids)

    def encode_names(self, names: Sequence[str]) -> Tensor:
        """Return ``(n, D)`` unit features of any names, each put where class names are put."""
        return self._encode_prompts(self._tokenise(names).to(self.prompt_ids.device))

    @torch.no_grad()
    def zero_shot_classes(self) -> Tensor:
        """Return ``(K, D)`` unit features of the templates' prompts as they are.

        They are zero-shot CLIP's as long as CLIP's own weights are untouched.
        """
        return ClipClassifier.encode_classes(self)

    @torch.no_grad()
    def zero_shot_names(self, names: Sequence[str]) -> Tensor:
        """Return ``(n, D)`` like ``zero_shot_classes``, for any names."""
        return ClipClassifier.encode_names(self, names)

    def _tokenise(self, names: Sequence[str]) -> Tensor:
        texts = fill_templates(names, self.templates)
        return tokenise(self.tokenizer, texts, self.longest_prompt)

    def _encode_prompts(self, ids: Tensor) -> Tensor:
        """Return one unit feature per name for ``ids (names * templates, L)``."""
        parts = [
            unit(self.clip.get_text_features(input_ids=part).pooler_output)
            for part in ids.split(_AT_ONCE)
        ]
        features = torch.cat(parts)
        per_name = features.view(-1, len(self.templates), features.shape[-1])
        return per_name[:, 0] if len(self.templates) == 1 else unit(per_name.mean(dim=1))

    def logits(self, images: Tensor, classes: Tensor) -> Tensor:
        """Return ``(B, K)`` float32 logits of unit features ``(B, D)`` and ``(K, D)``.

        Never in half precision: it would round confidences near 1 to 1.
        """
        with torch.autocast(images.device.type, enabled=False):
            scale: Tensor = self.clip.logit_scale.exp()
            return scale * images.float() @ classes.float().T

    def run(self, pixels: Tensor, images: Tensor | None = None) -> ForwardPass:
        """Return the logits of ``pixels (B, 3, H, W)`` and the features that led to them.

        Args:
            pixels: the input; unused, and may be empty, where ``images`` are given.
            images: ``(B, D)``, what ``encode_images(pixels)`` would return, if it is known.
        """
        if images is None:
            images = self.encode_images(pixels)
        fixed = self.classes_frozen and self.tuned
        classes = self._frozen_classes if fixed else self.encode_classes()
        return ForwardPass(pixels, images, classes, self.logits(images, classes))

    @cached_property
    def _frozen_classes(self) -> Tensor:
        """What ``encode_classes`` always returns where nothing it depends on is tuned."""
        with torch.inference_mode(False), torch.no_grad():
            return self.encode_classes()

    def forward(self, pixels: Tensor) -> Tensor:
        """Return ``(B, K)`` logits of ``pixels (B, 3, H, W)``."""
        return self.run(pixels).logits

    def extra_loss(self, passed: ForwardPass) -> Tensor | None:
        """Return a scalar that belongs to the method's own objective, weighted, or None."""
        return None

    def backward(self, objective: Tensor, passed: ForwardPass) -> None:
        """Fill the gradients of ``tuned`` for one step.

        Args:
            objective: everything that is minimised: loss, extra loss and penalties.
            passed: the forward pass it was computed from.
        """
        objective.backward()

    def export(self) -> Adapter:
        """Return float32 CPU copies of what is tuned and carried."""
        return as_adapter({**self.tuned, **self.carried})

    def restore(self, adapter: Mapping[str, Tensor]) -> None:
        """Load everything that is tuned or carried from ``adapter``.

        Raises:
            AdapterError: missing, unexpected or misshapen names, or values that are not finite;
                nothing is changed then.
        """
        travelling = {**self.tuned, **self.carried}
        check_like(adapter, travelling, "adapter")
        check_finite(adapter, "adapter")
        with torch.no_grad():
            for name, parameter in travelling.items():
                parameter.copy_(adapter[name])


def unit(features: Tensor) -> Tensor:
    """Return ``features (..., D)`` in float32 with length 1."""
    return normalize(features.float(), dim=-1)
