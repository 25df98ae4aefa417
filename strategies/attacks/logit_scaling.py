"""Logit scaling: the client makes the federation over- or underconfident at equal accuracy.

Its loss sees the logits times a factor. Below 1, the loss is small only for logits that are too
large, so the client pulls the shared model towards overconfidence; above 1, towards
underconfidence. CLIP's own logit scale is frozen and does not travel.
"""

from __future__ import annotations

from torch import Tensor

from fl2ora.strategies.attacks.base import Attack


class LogitScaling(Attack):
    """Trains with ``factor * logits``.

    Args:
        factor: above 0.
    """

    def __init__(self, factor: float = 0.1) -> None:
        if not 0 < factor < float("inf"):
            raise ValueError(f"factor: expected a finite number above 0, found {factor}")
        self.factor = factor

    def logits(self, logits: Tensor) -> Tensor:
        """Return the scaled logits."""
        return self.factor * logits
