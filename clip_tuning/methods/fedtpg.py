"""FedTPG: a network that writes the context from the class names.

Qiu et al. 2023, arXiv 2310.06123.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from fl2ora.clip_tuning.classifier import ClipClassifier, unit
from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.context import ContextClassifier
from fl2ora.clip_tuning.methods.base import Rates, TuningMethod
from fl2ora.clip_tuning.prompt_layout import ContextSettings
from fl2ora.clip_tuning.prompts import tokenise
from fl2ora.clip_tuning.towers import width
from fl2ora.experiment.arguments import whole


class FedTPG(TuningMethod):
    """Context vectors by cross-attention from queries to class-name features: 4,206,080 parameters.

    What travels knows no class list: it writes a context for any names. The authors give clients
    disjoint classes and average uniformly; here all clients share the names of the run.

    Args:
        length: how many context vectors.
        heads: of the cross-attention; must divide the text width.
    """

    learning_rates = Rates(
        embedded=0.3,
        published=0.003,
        source="Qiu et al. 2023: SGD",
    )

    def __init__(self, length: int = 4, heads: int = 4) -> None:
        self.settings = ContextSettings(whole("length", length, at_least=1), init="noise")
        self.heads = whole("heads", heads, at_least=1)

    def attach(
        self, clip: Clip, class_names: Sequence[str], templates: Sequence[str]
    ) -> ClipClassifier:
        """Tune the queries, under the name ``context (n, d)``, and the network ``writer``.

        Raises:
            ValueError: the heads do not divide the text width.
        """
        size = width(clip.model, "text")
        if size % self.heads:
            raise ValueError(
                f"heads: expected a divisor of {size}, the model's text width, found {self.heads}"
            )
        classifier = _WrittenClassifier(clip, class_names, templates, self.settings)
        classifier.writer = _Writer(size, clip.feature_size, self.heads)
        classifier.register_buffer("names", _encode_names(clip, class_names), persistent=False)
        return classifier.tune_own(images_frozen=True)


class _WrittenClassifier(ContextClassifier):
    """Prompts whose context the writer makes of ``context``, its queries."""

    names: Tensor
    writer: _Writer

    def make_context(self) -> Tensor:
        """Return ``(n, d)`` vectors for this classifier's class names."""
        written: Tensor = self.writer(self.context, self.names)
        return written


class _Writer(nn.Module):
    """Cross-attention and a gated feed-forward layer, each behind a normalisation."""

    def __init__(self, size: int, name_size: int, heads: int) -> None:
        super().__init__()
        self.query_norm, self.name_norm = nn.LayerNorm(size), nn.LayerNorm(name_size)
        self.attention = nn.MultiheadAttention(
            size, heads, kdim=name_size, vdim=name_size, batch_first=True
        )
        self.norm = nn.LayerNorm(size)
        self.up, self.down = nn.Linear(size, 8 * size), nn.Linear(4 * size, size)

    def forward(self, queries: Tensor, names: Tensor) -> Tensor:
        """Return ``(n, d)`` of queries ``(n, d)`` and class-name features ``(K, D)``."""
        keys = self.name_norm(names)
        found, _ = self.attention(self.query_norm(queries), keys, keys, need_weights=False)
        values, gates = self.up(self.norm(found)).chunk(2, dim=-1)
        written: Tensor = found + self.down(values * gelu(gates))
        return written


@torch.no_grad()
def _encode_names(clip: Clip, class_names: Sequence[str]) -> Tensor:
    """Return ``(K, D)`` unit features of the bare class names."""
    texts = [name.replace("_", " ") for name in class_names]
    ids = tokenise(clip.tokenizer, texts, clip.longest_prompt)
    return unit(clip.model.get_text_features(input_ids=ids).pooler_output)
