"""LoRA-FAIR: the mean of A is kept, and B corrected towards the mean of the products.

Bian et al. 2024, arXiv 2411.14961. The paper descends on a cosine distance, which is blind to
scale; this is the closed form of the squared distance.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.factors import Factors, centred, factor_names, mean_of
from fl2ora.strategies.base import RoundPlan
from fl2ora.strategies.lora._lora_strategy import LoRAStrategy, put
from fl2ora.strategies.updates import ClientUpdate


class LoRAFAIR(LoRAStrategy):
    """The mean of A, and ``B = mean(B) + D`` as near to ``M = sum_k p_k B_k A_k`` as that A allows.

    ``D = argmin |(mean(B) + D) A - M|_F^2 + ridge |D|_F^2``, which is
    ``(M - mean(B) A) A^T (A A^T + ridge I)^-1``: an r x r solve on factors. What of M lies outside
    the rows of A stays lost.

    Args:
        ridge: at least 0; with 0 the correction is the full least-squares one. The diagonal of
            ``A A^T`` is about 1/3 for a drawn A.
        weighting: ``examples`` or ``uniform``.
    """

    def __init__(self, ridge: float = 0.01, weighting: str = "examples") -> None:
        super().__init__(weighting)
        if not 0 <= ridge < float("inf"):
            raise ValueError(f"ridge: expected a finite number of at least 0, found {ridge}")
        self.ridge = ridge

    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        """Average, and correct every B; see ``Strategy.aggregate``."""
        factors, weights = self.gather(updates)
        result = dict(plan.current)
        for module, products in factors.items():
            mean, lost = mean_of(products, weights), centred(products, weights)
            gram = mean.a @ mean.a.T + self.ridge * torch.eye(mean.rank, dtype=torch.float64)
            step = lost.b @ (lost.a @ mean.a.T) @ torch.linalg.pinv(gram, hermitian=True)
            put(result, factor_names(module), Factors(mean.a, mean.b + step))
        return result
