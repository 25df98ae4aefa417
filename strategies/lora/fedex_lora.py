"""FedEx-LoRA: factors averaged apart, and what that loses added to the frozen weights.

Singhal et al. 2024, arXiv 2410.09432. The authors' code adds the residual transposed, which is
right for GPT-2's Conv1D; CLIP's Linear weights take it as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from fl2ora.clip_tuning.factors import Factors, centred, mean_of
from fl2ora.strategies.lora._residuals import ResidualLoRAStrategy


class FedExLoRA(ResidualLoRAStrategy):
    """``A, B`` the means, and ``W += s (sum_k p_k B_k A_k - B A)``: exact.

    Needs ``method = 'lora_residual(...)'``. The addition has rank up to ``(m - 1) r``.

    Args:
        ranks: of the clients, going round as ``4,2,1`` or by key as ``site-a:4, site-b:2``.
        weighting: ``examples`` or ``uniform``, which is the paper's.
    """

    def split(
        self,
        server_round: int,
        module: str,
        products: Sequence[Factors],
        weights: Sequence[float],
    ) -> tuple[Factors, Factors]:
        """Return the means and the clients' cross-covariance; see the base."""
        return mean_of(products, weights), centred(products, weights)
