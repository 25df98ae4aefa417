"""Forward and backward passes on a CUDA device, recorded once and then started as one.

A training step of LoRA on ViT-B/16 starts some 6,000 kernels, and a GPU is done with most of them
before a processor has started the next. A CUDA graph starts all of them at once; it computes what
they compute, bit by bit, dropout's draws included.
"""

from __future__ import annotations

import logging
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.experiment.errors import UserError

# Recording takes as long as some five passes and their backward passes.
_WORTH = 8
_MOST = 4  # kinds of passes; each keeps its input and gradients

logger = logging.getLogger(__name__)

Parts = tuple[Tensor, Tensor, Tensor]


class RecordedPasses:
    """The passes of one classifier that were recorded, by the shape of their input.

    They stay with the classifier, whose parameters they read where those are in memory, and go with
    it. All share the memory of their activations, since one is over before the next begins.

    Args:
        classifier: in training whenever passes are asked for.
    """

    def __init__(self, classifier: ClipClassifier) -> None:
        self._classifier = weakref.ref(classifier)  # a cycle would keep a GPU's memory
        self._asked: Counter[Hashable] = Counter()
        self._recorded: dict[Hashable, Callable[..., Parts] | None] = {}
        self._waits = False
        self._where: tuple[Hashable, ...] = ()
        self._pool: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """Give a copy of the classifier none: its parameters are elsewhere in memory."""

    def check(self) -> None:
        """Forget all passes if a tensor of the classifier's is not where it was, or is frozen."""
        classifier = self._alive()
        tensors = [*classifier.parameters(), *classifier.buffers()]
        where = tuple((tensor.data_ptr(), tensor.requires_grad) for tensor in tensors)
        if where != self._where:
            self._asked.clear()
            self._recorded.clear()
            self._waits, self._pool = False, None
            self._where = where

    def _alive(self) -> ClipClassifier:
        classifier = self._classifier()
        assert classifier is not None
        return classifier

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
            autocast: makes the context that a pass is computed in.

        Raises:
            UserError: the pass cannot be recorded, for a reason that is found too late.
        """
        given, personalised = pixels if prefix is None else prefix, self._alive().personalised
        key = (given.shape, given.dtype, prefix is None, personalised, conditions)
        self._asked[key] += 1
        new = key not in self._recorded and len(self._recorded) < _MOST and not self._waits
        if new and self._asked[key] > _WORTH:
            like = _Pass(self._alive(), prefix is None, autocast)
            with torch.cuda.device_of(given), torch.random.fork_rng(devices=[given.device]):
                self._recorded[key] = self._record(like, given.detach().clone())
        recorded = self._recorded.get(key)
        if recorded is None:
            return None
        images, classes, logits = recorded(given, *self._alive().trained)
        # Copies, since the next pass writes into the same memory.
        return images.clone(), classes.clone(), logits.clone()

    def _record(self, like: _Pass, given: Tensor) -> Callable[..., Parts] | None:
        """Return a pass that was recorded; None if it waits for the device on its way."""
        trained = self._alive().trained
        try:
            with _waiting_refused():
                like.forth_and_back(given, *trained)
        except RuntimeError as error:
            self._waits = True
            logger.warning(
                "cuda-graphs: training goes on without, as its pass cannot be recorded: %s",
                str(error).partition("\n")[0],
            )
            return None
        _do_not_warn_of_streams()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        try:
            made: Any = torch.cuda.make_graphed_callables(
                like, (given, *trained), allow_unused_input=True, pool=self._pool
            )
        except RuntimeError as error:  # which leaves torch's generator and memory unusable
            raise UserError(
                f"cuda-graphs: expected a pass that can be recorded, found one that cannot "
                f"({str(error).partition(chr(10))[0]}); cuda-graphs=false trains without"
            ) from error
        recorded: Callable[..., Parts] = made
        return recorded


@contextmanager
def _waiting_refused() -> Iterator[None]:
    """Let whatever waits for the device raise, which is not allowed while a pass is recorded."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(action="ignore"):  # that it may not find everything
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _do_not_warn_of_streams() -> None:
    """Let torch say nothing of gradients from another stream than that of recording: it waits."""
    # torch 2.10 and newer warn of it
    silence = getattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch", None)
    if silence is not None:
        silence(False)


def can_be_recorded(classifier: ClipClassifier) -> bool:
    """Whether training is a pass of the plain kind, and one backward pass that repeats nothing."""
    own, plain = type(classifier), ClipClassifier
    repeats = any(getattr(module, "recomputes", False) for module in classifier.modules())
    return (
        own.run is plain.run
        and own.backward is plain.backward
        and bool(classifier.trained)
        and not repeats
    )


def recorded_passes(classifier: ClipClassifier) -> RecordedPasses:
    """Return those of a classifier, which are made when they are first asked for."""
    found = vars(classifier).get("recorded_passes")
    if found is None:
        found = vars(classifier)["recorded_passes"] = RecordedPasses(classifier)
    assert isinstance(found, RecordedPasses)
    found.check()
    return found


class _Pass:
    """``ClipClassifier.run`` as a function of what it is given and of what is trained.

    Autocast is on inside alone: the backward pass that is recorded must run without, as others do.
    """

    def __init__(
        self,
        classifier: ClipClassifier,
        of_pixels: bool,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self.classifier, self.of_pixels, self.autocast = (
            weakref.ref(classifier),
            of_pixels,
            autocast,
        )

    def __call__(self, given: Tensor, *trained: Tensor) -> Parts:
        classifier = self.classifier()
        assert classifier is not None
        run, nothing = classifier.run, given.new_zeros(0)
        with self.autocast():
            passed = run(given) if self.of_pixels else run(nothing, given)
        return passed.images, passed.classes, passed.logits

    def forth_and_back(self, given: Tensor, *trained: Tensor) -> None:
        """Compute what is to be recorded, and keep nothing of it."""
        outputs = [each for each in self(given) if each.requires_grad]
        ones = [torch.ones_like(each) for each in outputs]
        moving = [each for each in trained if each.requires_grad]
        torch.autograd.grad(outputs, moving, ones, allow_unused=True)
