"""Contrastive pre-training, which can be cut off and gone on with.

After Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML
2021, https://arxiv.org/abs/2103.00020, with one difference: equal captions are one text, so two
pictures of a circle are not each other's negatives.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPModel, PreTrainedTokenizerFast

from fl2ora.experiment.errors import UserError
from fl2ora.pretraining.pairs import Pairs, distinct
from fl2ora.reporting.whole_files import whole_file

MAX_LOG_SCALE = math.log(100.0)
"""Upper bound of ``logit_scale``, as in the paper."""

_MOMENTS = ("exp_avg", "exp_avg_sq")


def contrastive_loss(
    image_features: Tensor, text_features: Tensor, caption_of: Tensor, log_scale: Tensor
) -> Tensor:
    """Return the symmetric contrastive loss with soft targets for equal captions.

    Images against the different captions of the batch: cross-entropy with the image's caption.
    Captions against the images: cross-entropy with a uniform target over all images of the caption.

    Args:
        image_features: ``(N, D)`` of unit length.
        text_features: ``(U, D)`` of unit length, one row per different caption.
        caption_of: ``(N,)`` int64, each image's row in ``text_features``; every row occurs.
        log_scale: scalar, natural logarithm of the inverse temperature.

    Returns:
        A scalar in nats.
    """
    logits = log_scale.exp() * image_features @ text_features.T  # (N, U)
    targets = torch.nn.functional.one_hot(caption_of, len(text_features)).to(logits)
    targets = targets / targets.sum(dim=0)
    to_text = torch.nn.functional.cross_entropy(logits, caption_of)
    to_image = torch.nn.functional.cross_entropy(logits.T, targets.T)
    return (to_text + to_image) / 2


def encode(
    model: CLIPModel, tokenizer: PreTrainedTokenizerFast, pairs: Pairs
) -> tuple[Tensor, Tensor]:
    """Return unit features of a batch's images ``(N, D)`` and of its captions ``(U, D)``."""
    tokens = tokenizer(pairs.captions, padding=True, truncation=True, return_tensors="pt")
    images = model.get_image_features(pixel_values=pairs.pixels).pooler_output
    texts = model.get_text_features(**tokens).pooler_output
    return torch.nn.functional.normalize(images), torch.nn.functional.normalize(texts)


class Training:
    """AdamW with a one-cycle schedule on one model.

    Args:
        model: all of it is trained, in place.
        tokenizer: the model's.
        steps: updates to make in all.
        learning_rate: the schedule's peak.
    """

    def __init__(
        self,
        model: CLIPModel,
        tokenizer: PreTrainedTokenizerFast,
        steps: int,
        learning_rate: float = 1.5e-3,
    ) -> None:
        matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
        others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
        self._model, self._tokenizer, self._steps = model, tokenizer, steps
        self._optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
            lr=learning_rate,
        )
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer, max_lr=learning_rate, total_steps=max(steps, 2), pct_start=0.1
        )
        self.losses: list[float] = []

    def run(
        self,
        batches: Iterator[Pairs],
        *,
        after_step: Callable[[int], None] = lambda step: None,
    ) -> list[float]:
        """Make the updates that are left.

        Args:
            batches: those of the steps that are left, in order.
            after_step: called with the number of steps that are done.

        Returns:
            The loss of each step in nats, before its update.

        Raises:
            UserError: a loss is not finite.
        """
        self._model.train()
        while len(self.losses) < self._steps:
            self.losses.append(self._step(next(batches)))
            after_step(len(self.losses))
        self._model.eval()
        return self.losses

    def _step(self, pairs: Pairs) -> float:
        model, pairs = self._model, distinct(pairs, self._tokenizer)
        images, texts = encode(model, self._tokenizer, pairs)
        loss = contrastive_loss(images, texts, pairs.caption_of, model.logit_scale)
        if not torch.isfinite(loss):
            raise UserError(
                f"step {len(self.losses) + 1}: expected a finite loss, found {loss.item()}; "
                "a smaller learning-rate may help"
            )
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        self._optimizer.step()
        self._schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=MAX_LOG_SCALE)
        return loss.item()

    def save(self, path: Path, recipe: str) -> None:
        """Write all that going on takes, in one safetensors file, whole or not at all.

        Args:
            path: of the file.
            recipe: what ``load`` is to find again.
        """
        tensors = {f"model.{name}": value for name, value in self._model.state_dict().items()}
        # No metadata: safetensors limits their size, and steps are many.
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        for name, parameter in self._model.named_parameters():
            for moment in _MOMENTS:
                tensors[f"{moment}.{name}"] = self._optimizer.state[parameter][moment]
        groups = [
            {key: value for key, value in group.items() if key != "params"}
            for group in self._optimizer.param_groups
        ]
        described = {
            "recipe": recipe,
            "groups": json.dumps(groups),
            "last-epoch": str(self._schedule.last_epoch),
        }
        with whole_file(path) as part:
            save_file({n: t.detach().contiguous() for n, t in tensors.items()}, part, described)

    def load(self, path: Path, recipe: str) -> None:
        """Go on from what ``save`` wrote.

        Raises:
            UserError: it is no such file, a damaged one, or of another recipe.
        """
        try:
            with safe_open(path, "pt") as file:
                described = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"{path}: expected a safetensors file, found {error}; "
                "remove the folder to begin anew"
            ) from None
        if described.get("recipe") != recipe:
            raise UserError(
                f"{path}: expected the recipe that was begun, found that it has changed, or its "
                "captions or pictures; put them back, or remove the folder to begin anew"
            )
        try:
            self._take(described, tensors)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            said = " ".join(str(error).split())
            raise UserError(
                f"{path}: expected what a pre-training has saved, found it damaged ({said}); "
                "remove the folder to begin anew"
            ) from None

    def _take(self, described: dict[str, str], tensors: dict[str, Tensor]) -> None:
        """Put a saved state in place of this one; errors of all kinds if it does not fit."""
        self._model.load_state_dict(
            {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
        )
        self.losses = tensors["losses"].tolist()
        for name, parameter in self._model.named_parameters():
            state = {moment: tensors[f"{moment}.{name}"] for moment in _MOMENTS}
            if any(value.shape != parameter.shape for value in state.values()):
                raise ValueError(f"moments of {name} have another shape")
            self._optimizer.state[parameter] = {
                "step": torch.tensor(float(len(self.losses))),
                **state,
            }
        groups = json.loads(described["groups"])
        for group, values in zip(self._optimizer.param_groups, groups, strict=True):
            group.update({k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
        self._schedule.last_epoch = int(described["last-epoch"])
        if not self._schedule.last_epoch == len(self.losses) <= self._steps:
            raise ValueError(f"{len(self.losses)} losses at step {self._schedule.last_epoch}")
