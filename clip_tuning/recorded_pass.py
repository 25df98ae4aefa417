"""Forward and backward passes on a CUDA device, recorded once and then started as one.

A training step of LoRA on ViT-B/16 starts some 6,000 kernels, and a GPU is done with most of them
before a processor has started the next. A CUDA graph starts all of them at once; it computes what
they compute, bit by bit, dropout's draws included.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from fl2ora.clip_tuning.classifier import ClipClassifier

# Recording takes as long as some five passes and their backward passes.
_WORTH = 8

logger = logging.getLogger(__name__)

Parts = tuple[Tensor, Tensor, Tensor]


class RecordedPasses:
    """The passes of one classifier that were recorded, by the shape of their input.

    They stay with the classifier, whose parameters they read where those are in memory. All share
    the memory of their activations, since one is over before the next begins.

    Args:
        classifier: in training whenever passes are asked for.
    """

    def __init__(self, classifier: ClipClassifier) -> None:
        self._classifier = classifier
        self._asked: Counter[Hashable] = Counter()
        self._recorded: dict[Hashable, Callable[[Tensor], Parts] | None] = {}
        self._where: tuple[Hashable, ...] = ()
        self._pool: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """Give a copy of the classifier none: its parameters are elsewhere in memory."""

    def check(self) -> None:
        """Forget all passes if a tensor of the classifier's is not where it was, or is frozen."""
        tensors = [*self._classifier.parameters(), *self._classifier.buffers()]
        where = tuple((tensor.data_ptr(), tensor.requires_grad) for tensor in tensors)
        if where != self._where:
            self._asked.clear()
            self._recorded.clear()
            self._where = where

    def parts(
        self,
        pixels: Tensor,
        prefix: Tensor | None,
        conditions: Hashable,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> Parts | None:
        """Return a pass's features of images and of classes, and logits; None if not recorded.

        A pass is recorded when its like has been asked for some times. Then one backward pass must
        follow before the next is asked for.

        Args:
            pixels: see ``ClipClassifier.run``.
            prefix: see there.
            conditions: whatever else passes differ in that must not be taken for each other.
            autocast: makes the context that a pass is computed in, which must not cache.
        """
        given = pixels if prefix is None else prefix
        key = (given.shape, given.dtype, prefix is None, self._classifier.personalised, conditions)
        self._asked[key] += 1
        if self._asked[key] > _WORTH and key not in self._recorded:
            with autocast():
                self._recorded[key] = self._record(given, prefix is None)
        recorded = self._recorded.get(key)
        if recorded is None:
            return None
        images, classes, logits = recorded(given)
        # Copies, since the next pass writes into the same memory.
        return images.clone(), classes.clone(), logits.clone()

    def _record(self, given: Tensor, of_pixels: bool) -> Callable[[Tensor], Parts] | None:
        """Return a pass that was recorded; None if it does something that cannot be."""
        try:
            with torch.random.fork_rng(devices=[given.device]):
                if self._pool is None:
                    self._pool = torch.cuda.graph_pool_handle()
                made: Any = torch.cuda.make_graphed_callables(
                    _Pass(self._classifier, of_pixels),
                    (given.detach().clone(),),
                    allow_unused_input=True,
                    pool=self._pool,
                )
        except RuntimeError as error:
            logger.warning(
                "cuda-graphs: training goes on without, since its pass could not be recorded: %s",
                str(error).partition("\n")[0],
            )
            return None
        recorded: Callable[[Tensor], Parts] = made
        return recorded


def can_be_recorded(classifier: ClipClassifier) -> bool:
    """Whether a classifier's training is a pass of the plain kind, and one backward pass of it."""
    own, plain = type(classifier), ClipClassifier
    return own.run is plain.run and own.backward is plain.backward and bool(classifier.trained)


def recorded_passes(classifier: ClipClassifier) -> RecordedPasses:
    """Return those of a classifier, which are made when they are first asked for."""
    found = vars(classifier).get("recorded_passes")
    if found is None:
        found = vars(classifier)["recorded_passes"] = RecordedPasses(classifier)
    assert isinstance(found, RecordedPasses)
    found.check()
    return found


class _Pass(nn.Module):
    """``ClipClassifier.run`` from one tensor to three."""

    def __init__(self, classifier: ClipClassifier, of_pixels: bool) -> None:
        super().__init__()
        self.classifier, self.of_pixels = classifier, of_pixels

    def forward(self, given: Tensor) -> Parts:
        nothing = given.new_zeros(0)
        passed = (
            self.classifier.run(given) if self.of_pixels else self.classifier.run(nothing, given)
        )
        return passed.images, passed.classes, passed.logits
