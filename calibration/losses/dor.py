"""DOR, dynamic outlier regularisation: ``1 - mean_o cos(w_o, w_o^zs)`` over words o.

The words are nouns that name no class, drawn anew at each step and encoded like class names by
the model in training and by the frozen one. Where the class features are left free to fit, these
hold the rest of the text space in place. A penalty in [0, 2]; the weight and the number of words
are not known for certain: ``cross_entropy + 8*dor`` is a start, 2 for methods already regularised.

The draw depends on ``seed``, the context's ``seed`` and the number of calls to this object, which
a client makes anew each round, and on nothing else. The authors prefer nouns near the classes:
``nearest=100`` keeps the 100 words most similar to any class, at the price of encoding all words
once per object.

Source: Wang, Li, Wei, ICML 2025, arXiv:2410.02681.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from fl2ora.calibration.losses._arguments import whole
from fl2ora.calibration.losses._batch import check_shape, unit
from fl2ora.calibration.losses._nouns import NOUNS
from fl2ora.calibration.losses.base import Loss, LossContext

Encoder = Callable[[Sequence[str]], tuple[Tensor, Tensor]]


def _plain(word: str) -> str:
    """Return ``word`` in lower case, with blanks for underscores and hyphens."""
    return " ".join(word.lower().replace("_", " ").replace("-", " ").split())


class Dor(Loss):
    """Mean cosine distance of sampled nouns' features to their zero-shot values.

    Args:
        sample: words per step; fewer where fewer are left.
        words: the words to draw from, separated by commas; empty for the built-in nouns.
        nearest: keep only so many words most similar to any class; 0 keeps all.
        seed: of the draws, >= 0.
    """

    is_penalty = True
    needs = frozenset({"encode_texts", "class_names", "seed"})

    def __init__(self, sample: int = 32, words: str = "", nearest: int = 0, seed: int = 0) -> None:
        self.sample = whole("sample", sample, at_least=1)
        self.nearest = whole("nearest", nearest, at_least=0)
        self.seed = whole("seed", seed, at_least=0)
        if not isinstance(words, str):
            raise ValueError(f"words: expected text separated by commas, found {words!r}")
        given = dict.fromkeys(word.strip() for word in words.split(",") if word.strip())
        if words and not given:
            raise ValueError(f"words: expected at least one word, found {words!r}")
        self.words = tuple(given) or NOUNS
        if self.nearest:
            self.needs = self.needs | {"zero_shot_text_features"}
        self._pool: tuple[str, ...] | None = None
        self._calls = 0

    def __call__(self, logits: Tensor, labels: Tensor, context: LossContext) -> Tensor:
        """Return the scalar penalty; ``logits (B, K)`` and ``labels (B,)`` are not used."""
        encode = self.require(context.encode_texts, "encode_texts")
        if self._pool is None:
            self._pool = self._choose_pool(encode, context)
        random = np.random.default_rng([self.seed, context.seed, self._calls])
        self._calls += 1
        size = min(self.sample, len(self._pool))
        drawn = random.choice(len(self._pool), size=size, replace=False)
        tuned, frozen = (unit(features) for features in encode([self._pool[i] for i in drawn]))
        check_shape("encode_texts, frozen", frozen, tuned.shape)
        return 1 - (tuned * frozen.detach()).sum(1).mean()

    def _choose_pool(self, encode: Encoder, context: LossContext) -> tuple[str, ...]:
        """Return the words to draw from: no class name, and the nearest ones if asked for."""
        taken = {_plain(name) for name in context.class_names}
        pool = tuple(word for word in self.words if _plain(word) not in taken)
        if not pool:
            raise ValueError("words: expected a word that names no class, found none")
        if not 0 < self.nearest < len(pool):
            return pool
        classes = unit(self.require(context.zero_shot_text_features, "zero_shot_text_features"))
        with torch.no_grad():
            words = unit(encode(pool)[1])
        similarity = (words @ classes.T.to(words)).amax(1)
        kept = similarity.argsort(descending=True, stable=True)[: self.nearest]
        return tuple(pool[i] for i in sorted(kept.tolist()))
