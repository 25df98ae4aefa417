"""FLoRA: the clients' factors stacked, merged into the frozen weights, and a new start.

Wang et al. 2024, arXiv 2409.05976. s stays what it is: in the authors' code the rank of the stack
changes s where it is ``alpha / sqrt(rank)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from fl2ora.clip_tuning.factors import Factors, stacked
from fl2ora.experiment.seeds import derive_seed
from fl2ora.strategies.lora._residuals import ResidualLoRAStrategy


class FLoRA(ResidualLoRAStrategy):
    """``W += s [p_1 B_1 ... p_m B_m] [A_1; ...; A_m]``, then A is drawn anew and B is zero: exact.

    Needs ``method = 'lora_residual(...)'``. The addition has rank up to ``m r``, every round again.
    A is drawn as at the start, uniformly from ``(-1/sqrt(i), 1/sqrt(i))``.

    Args:
        ranks: of the clients, going round as ``4,2,1`` or by key as ``site-a:4, site-b:2``.
        weighting: ``examples`` or ``uniform``.
        seed: of the draws of A.
    """

    allows_feedback = False  # A is drawn anew in every round

    def __init__(self, ranks: str = "", weighting: str = "examples", seed: int = 0) -> None:
        super().__init__(ranks, weighting)
        self.seed = seed

    def split(
        self,
        server_round: int,
        module: str,
        products: Sequence[Factors],
        weights: Sequence[float],
    ) -> tuple[Factors, Factors]:
        """Return a new start and the stack of the clients' factors; see the base."""
        like = products[0]
        seed = derive_seed(self.seed, "flora", module, server_round)
        drawn = torch.rand(like.a.shape, generator=torch.Generator().manual_seed(seed))
        a = (2 * drawn.double() - 1) / math.sqrt(like.a.shape[1])
        return Factors(a, torch.zeros_like(like.b)), stacked(products, weights)
