"""PromptFolio: each client's class features mix those of a shared and of a prompt of its own.

Pan et al. 2024, arXiv 2409.19610; https://github.com/PanBikang/PromptFolio.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fl2ora.clip_tuning.classifier import ClipClassifier, unit
from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.context import ContextClassifier
from fl2ora.clip_tuning.methods.base import Rates, TuningMethod
from fl2ora.clip_tuning.prompt_layout import ContextSettings
from fl2ora.experiment.arguments import number, whole


class PromptFolio(TuningMethod):
    """Two contexts, of which a client sends the global one: 8,192 of 16,384 parameters on ViT-B/16.

    A client's class features are ``(1 - share) w_global + share w_local``, of unit features; as in
    the authors' code the mixture is not brought to length 1 again, so prompts that disagree make
    for less confidence. The global part on its own is ``coop``.

    Args:
        length: context vectors in each prompt.
        share: of the client's own prompt, between 0 and 1 (the paper's theta).
        init: of both contexts; see ``coop``.
    """

    learning_rates = Rates(
        embedded=0.03,
        published=0.001,
        source="none for SGD: that of FedOTP and FedPGP, which are built like it",
    )

    def __init__(self, length: int = 16, share: float = 0.4, init: str = "noise") -> None:
        self.settings = ContextSettings(whole("length", length, at_least=1), init)
        self.share = number("share", share, above=0, below=1)

    def attach(
        self, clip: Clip, class_names: Sequence[str], templates: Sequence[str]
    ) -> ClipClassifier:
        """Tune ``context (n, d)``, and ``local_context (n, d)`` on each client."""
        classifier = _PortfolioClassifier(clip, class_names, templates, self.settings)
        classifier.local_context = nn.Parameter(classifier.initial_context())
        classifier.share = self.share
        return classifier.tune_own(personal=("local_context",), images_frozen=True)


class _PortfolioClassifier(ContextClassifier):
    """Class features are ``(K, D)``: unit ones of the global prompt, or a client's mixture."""

    local_context: nn.Parameter
    share: float

    def encode_classes(self) -> Tensor:
        """Return ``(K, D)``; a client's own are shorter than 1 where its prompts disagree."""
        shared = self.encode_with(self.context)
        if not self.personalised:
            return shared
        return (1 - self.share) * shared + self.share * self.encode_with(self.local_context)

    def pooled_classes(self, classes: Tensor) -> Tensor:
        """Return ``(K, D)`` of length 1, for whoever compares directions."""
        return unit(classes)
