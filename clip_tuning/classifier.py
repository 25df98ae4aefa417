"""CLIP as a classifier of images among named classes, and what of it is tuned."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.forward_pass import ForwardPass
from fl2ora.clip_tuning.prefix.digest import digest
from fl2ora.clip_tuning.prefix.image_prefix import ImagePrefix, lasting
from fl2ora.clip_tuning.prompt_parts import PromptPart, drops_out, encode_parts, parts_of
from fl2ora.clip_tuning.prompts import fill_templates, tokenise
from fl2ora.clip_tuning.towers import image_from_states, image_states
from fl2ora.clip_tuning.tuned import TunedModule


class ClipClassifier(TunedModule):
    """Scores images ``(B, 3, H, W)`` against K classes: ``exp(logit_scale) * cos(image, class)``.

    The features of a class are the mean of its templates' unit features, normalised again. SigLIP's
    ``logit_bias`` is left out: it shifts all logits alike, which softmax over classes does not see.

    A method with another forward overrides ``encode_images``, ``encode_classes`` or ``logits``.
    Whoever classifies may encode the classes once and the images when it likes: the logits of a
    batch are always ``logits(encode_images(pixels), encode_classes())``.

    Attributes:
        clip: the transformers model, frozen but for ``tuned``.
        class_names: K names.
        templates: with ``{}`` where a class name goes.
        tokenizer: of the text tower.
        longest_prompt: most tokens the text tower takes.
        padding: of prompts, to the ``longest`` or to ``max_length``.
        preprocessing: from raw bytes to the input of ``forward``.
        zero_shot_scale: what cosines are multiplied by before anything is tuned.
        wants_zero_shot: ``extra_loss`` reads ``ForwardPass.zero_shot``.
        gathers: ``gather`` learns from a client's images in one go, before any training.
    """

    wants_zero_shot: ClassVar[bool] = False
    gathers: ClassVar[bool] = False
    prompt_ids: Tensor
    zero_shot_scale: Tensor

    def __init__(self, clip: Clip, class_names: Sequence[str], templates: Sequence[str]) -> None:
        super().__init__()
        self.clip = clip.model.requires_grad_(False)
        self.preprocessing = clip.preprocessing
        self.class_names = tuple(class_names)
        self.templates, self.tokenizer = tuple(templates), clip.tokenizer
        self.longest_prompt, self.padding = clip.longest_prompt, clip.family.padding
        scale = clip.model.logit_scale.detach().exp().clone()
        self.register_buffer("zero_shot_scale", scale, persistent=False)
        self.register_buffer("prompt_ids", self._tokenise(class_names), persistent=False)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Return ``(B, D)`` unit features of ``pixels (B, 3, H, W)``."""
        return unit(image_from_states(self.clip, image_states(self.clip, pixels, 0), 0))

    def encode_classes(self) -> Tensor:
        """Return ``(K, D)`` unit features of the classes' prompts."""
        parts = self.class_parts(shared=not drops_out(self.clip))
        return self._per_name(unit(encode_parts(self.clip, parts)))

    def encode_names(self, names: Sequence[str]) -> Tensor:
        """Return ``(n, D)`` unit features of any names, each put where class names are put."""
        return self._encode_prompts(self._tokenise(names).to(self.prompt_ids.device))

    @torch.no_grad()
    def zero_shot_classes(self, templates: Sequence[str] = ()) -> Tensor:
        """Return ``(K, D)`` unit features of the templates' prompts as they are.

        They are zero-shot CLIP's as long as CLIP's own weights are untouched.

        Args:
            templates: other ones than the classifier's.
        """
        if not templates:
            return ClipClassifier.encode_classes(self)
        texts = fill_templates(self.class_names, templates)
        ids = tokenise(self.tokenizer, texts, self.longest_prompt, self.padding)
        return self._encode_prompts(ids.to(self.prompt_ids.device), len(templates))

    def zero_shot_logits(self, images: Tensor, classes: Tensor) -> Tensor:
        """Return ``(B, K)`` float32 logits of zero-shot CLIP's features, on CLIP's own scale."""
        return self._scaled(self.zero_shot_scale, images, classes)

    @torch.no_grad()
    def zero_shot_names(self, names: Sequence[str]) -> Tensor:
        """Return ``(n, D)`` like ``zero_shot_classes``, for any names."""
        return ClipClassifier.encode_names(self, names)

    def _tokenise(self, names: Sequence[str]) -> Tensor:
        texts = fill_templates(names, self.templates)
        return tokenise(self.tokenizer, texts, self.longest_prompt, self.padding)

    def _encode_prompts(self, ids: Tensor, templates: int = 0) -> Tensor:
        """Return one unit feature per name for ``ids (names * templates, L)``."""
        parts = parts_of(self.clip, ids, shared=not drops_out(self.clip))
        return self._per_name(unit(encode_parts(self.clip, parts)), templates)

    def class_parts(self, shared: bool) -> list[PromptPart]:
        """Return the classes' prompts as the text tower takes them; see ``pack``."""
        if shared not in self._kept_parts:
            self._kept_parts[shared] = parts_of(self.clip, self.prompt_ids, shared)
        return self._kept_parts[shared]

    @cached_property
    def _kept_parts(self) -> dict[bool, list[PromptPart]]:
        return {}

    def _per_name(self, features: Tensor, templates: int = 0) -> Tensor:
        """Return one unit feature per name for ``features (names * templates, D)``."""
        per_name = features.view(-1, templates or len(self.templates), features.shape[-1])
        return per_name[:, 0] if per_name.shape[1] == 1 else unit(per_name.mean(dim=1))

    def logits(self, images: Tensor, classes: Tensor) -> Tensor:
        """Return ``(B, K)`` float32 logits of unit features ``(B, D)`` and ``(K, D)``.

        Never in half precision: it would round confidences near 1 to 1.
        """
        return self._scaled(self.clip.logit_scale.exp(), images, classes)

    @staticmethod
    def _scaled(scale: Tensor, images: Tensor, classes: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            return scale * images.float() @ classes.float().T

    @property
    def image_prefix(self) -> ImagePrefix | None:
        """The part of ``encode_images`` that need not be repeated; None where there is none.

        A method that changes features itself, after CLIP's tower, overrides this.
        """
        if not self.images_frozen:
            return None
        owner = next(cls for cls in type(self).__mro__ if "encode_images" in vars(cls))
        name = f"{owner.__module__}.{owner.__qualname__}"
        if owner is not ClipClassifier:  # its encode_images may read anything that is its own
            name = f"{name} {self._own_digest()}"
        return ImagePrefix(name, self.encode_images, lambda images: images)

    def _own_digest(self) -> str:
        """Return a digest of settings and of tensors beside CLIP's that are not tuned."""
        plain = sorted(
            (key, value)
            for key, value in vars(self).items()
            if isinstance(value, (bool, int, float, str))
            if key not in ("training", "personalised", "untouched")
        )
        own = {
            name: tensor
            for name, tensor in self.state_dict(keep_vars=True).items()
            if not name.startswith("clip.") and id(tensor) not in self._moving
        }
        return digest(own.values(), plain, *own)

    @property
    def _moving(self) -> set[int]:
        """The identities of all tensors that training may change."""
        return {id(tensor) for tensor in [*self.trained, *self.carried.values()]}

    def finish_images(self, prefix: Tensor) -> Tensor:
        """Return what ``encode_images`` returns, from the images' ``prefix`` features."""
        known = self.image_prefix
        assert known is not None
        return known.finish(prefix)

    def run(
        self, pixels: Tensor, prefix: Tensor | None = None, zero_shot: Tensor | None = None
    ) -> ForwardPass:
        """Return the logits of ``pixels (B, 3, H, W)`` and the features that led to them.

        Args:
            pixels: the input; unused, and may be empty, where ``prefix`` is given.
            prefix: the images' prefix features, if they are known.
            zero_shot: ``(B, D)``, zero-shot CLIP's features of the images, if they are known.
        """
        images = self.encode_images(pixels) if prefix is None else self.finish_images(prefix)
        fixed = self.classes_frozen and (self.tuned or self.carried)
        classes = self.frozen_classes if fixed else self.encode_classes()
        return ForwardPass(pixels, images, classes, self.logits(images, classes), zero_shot)

    @cached_property
    def frozen_classes(self) -> Tensor:
        """What ``encode_classes`` always returns where ``classes_frozen``."""
        with lasting(self.clip.device):
            return self.encode_classes()

    @cached_property
    def vision_digest(self) -> str:
        """A digest of the vision tower's configuration and of its weights that are not tuned."""
        moving = self._moving
        tower = {
            name: tensor
            for name, tensor in self.clip.state_dict(keep_vars=True).items()
            if "vision_model." in name or "visual_projection." in name
            if id(tensor) not in moving
        }
        config = self.clip.config.vision_config.to_json_string()
        return digest(tower.values(), config, *tower)

    def pooled_images(self, images: Tensor) -> Tensor:
        """Return ``(B, D)`` of what ``encode_images`` returned, for whoever compares images."""
        return images

    def pooled_classes(self, classes: Tensor) -> Tensor:
        """Return ``(K, D)`` of what ``encode_classes`` returned, for whoever compares classes."""
        return classes

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

    def gather(self, images: Tensor, labels: Tensor, rng: torch.Generator) -> None:
        """Set ``carried`` from all of one client's images, where a method ``gathers``.

        Args:
            images: ``(N, D)``, what ``encode_images`` returns of them.
            labels: ``(N,)`` on the same device.
            rng: on the CPU, of this client, the same in every round.
        """
        raise NotImplementedError


def unit(features: Tensor) -> Tensor:
    """Return ``features (..., D)`` in float32 with length 1."""
    return normalize(features.float(), dim=-1)
