"""Label flip: the client trains on wrong labels.

Fang et al. 2019, arXiv 1911.11815.
"""

from __future__ import annotations

from torch import Tensor

from fl2ora.strategies.attacks.base import Attack


class LabelFlip(Attack):
    """Trains class y as class ``K - 1 - y``."""

    def labels(self, labels: Tensor, num_classes: int) -> Tensor:
        """Return the flipped labels."""
        return num_classes - 1 - labels
