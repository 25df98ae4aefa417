"""FLoRA-NA: averages of the factors with weights whose product comes nearest to the exact mean.

Nguyen et al. 2025, arXiv 2509.26399. The paper's own way to the weights is not reproduced: here
they are the least-squares ones, found by alternating exact solves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.factors import Factors, factor_names, mean_of, norm, stacked
from fl2ora.experiment.arguments import whole
from fl2ora.strategies.base import RoundPlan
from fl2ora.strategies.lora._lora_strategy import LoRAStrategy, put
from fl2ora.strategies.updates import ClientUpdate


class FLoRANA(LoRAStrategy):
    """``A = sum_k x_k A_k``, ``B = sum_k y_k B_k`` with ``(x, y) = argmin |M - B A|_F^2`` per pair.

    ``M = sum_k p_k B_k A_k`` is never formed. The search starts at ``x = y = p`` and every step
    lowers the distance, so the result is at least as near to M as FedIT's. Of the common scale, A
    has the norm of the plain mean.

    Args:
        steps: pairs of solves, at least 1.
        weighting: ``examples`` or ``uniform``.
    """

    def __init__(self, steps: int = 20, weighting: str = "examples") -> None:
        super().__init__(weighting)
        self.steps = whole("steps", steps, at_least=1)

    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        """Weigh and average every pair; see ``Strategy.aggregate``."""
        factors, weights = self.gather(updates)
        result = dict(plan.current)
        for module, products in factors.items():
            put(result, factor_names(module), nearest_mean(products, weights, self.steps))
        return result


def nearest_mean(products: Sequence[Factors], weights: Sequence[float], steps: int) -> Factors:
    """Return ``sum_k x_k a_k`` and ``sum_k y_k b_k`` after so many pairs of solves.

    Args:
        products: of m clients, rank r.
        weights: p_k.
        steps: pairs of solves.
    """
    mean = mean_of(products, weights)
    if norm(stacked(products, weights)) == 0 or norm(mean) == 0:
        return mean
    a = torch.stack([product.a for product in products])  # (m, r, i)
    b = torch.stack([product.b for product in products])  # (m, o, r)
    shares = torch.tensor(weights, dtype=torch.float64)
    rows = torch.einsum("kri,lsi->klrs", a, a)  # A_k A_l^T
    columns = torch.einsum("kor,los->klrs", b, b)  # B_k^T B_l
    x = shares
    for _ in range(steps):
        y = _solve(columns, rows, shares, x)
        x = _solve(rows, columns, shares, y)
    best_a = torch.einsum("k,kri->ri", x, a)
    best_b = torch.einsum("k,kor->or", _solve(columns, rows, shares, x), b)
    scale = mean.a.norm() / best_a.norm()
    return Factors(best_a * scale, best_b / scale)


def _solve(grams: Tensor, others: Tensor, shares: Tensor, fixed: Tensor) -> Tensor:
    """Return the best weights ``(m,)`` of one factor for the other's ``fixed``.

    Args:
        grams: ``(m, m, r, r)`` of the factor that is solved for.
        others: ``(m, m, r, r)`` of the fixed one.
        shares: p_k.
        fixed: weights of the other factor.
    """
    core = torch.einsum("k,l,klrs->rs", fixed, fixed, others)
    normal = torch.einsum("klrs,rs->kl", grams, core)
    mixed = torch.einsum("l,klrs->krs", fixed, others)
    right = torch.einsum("k,jkrs,ksr->j", shares, grams, mixed)
    solution: Tensor = torch.linalg.pinv(normal, rtol=1e-10, hermitian=True) @ right
    return solution
