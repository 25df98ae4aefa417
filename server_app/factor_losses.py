"""What averaging LoRA factors apart would lose in a round, and how large the merged update is."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.factors import (
    Factors,
    factors_of,
    mean_of,
    merged_of,
    norm,
    pair_names,
    residual_of,
    stacked,
)
from fl2ora.strategies.base import RoundPlan
from fl2ora.strategies.lora._ranks import with_unsent
from fl2ora.strategies.updates import ClientUpdate


class FactorLosses:
    """Watches one round's updates go by; ``p_k = n_k / sum_j n_j`` whatever the strategy's weights.

    What a client of lower rank was not sent is no movement of it: it counts as it is.

    Kept are the clients' factors, float32 and not copied, so memory grows with their number. Once a
    pair's factors take more than its dense ``o x i`` sum in float64 they are added to that sum, and
    it takes at most twice as much however many clients there are.

    Args:
        scalings: s by module, such as ``clip_tuning.factors.scalings`` returns; 1 where a module is
            not named.
    """

    def __init__(self, scalings: Mapping[str, float]) -> None:
        self._scalings = scalings
        self._sums: dict[str, _Products] = {}
        self._current: Adapter = {}

    def add(self, plan: RoundPlan, update: ClientUpdate) -> None:
        """Take one usable update into account; an adapter without LoRA pairs adds nothing."""
        self._current = plan.current
        whole = with_unsent(plan, update)
        for module in pair_names(whole.adapter):
            self._sums.setdefault(module, _Products()).add(
                whole.adapter, module, float(update.num_examples)
            )

    def result(self, following: Adapter) -> dict[str, float]:
        """Return the round's metrics, relative Frobenius norms over all pairs together.

        Args:
            following: the adapter the server made of the updates.

        Returns:
            Nothing without LoRA pairs, else

            ``lora_aggregation_error``: of averaging the factors apart, whatever the server did.
            ``lora_aggregation_error_worst``: the largest of one pair.
            ``lora_server_error``: how far ``following`` is from the mean of the products.
            ``lora_update_norm``: ``|s B A|_F`` of ``following``, with what it carries.
        """
        if not self._sums:
            return {}
        lost, missed, exact_norms, merged_norms, worst = [], [], [], [], 0.0
        for module, sums in self._sums.items():
            scale = self._scalings.get(module, 1.0)
            exact, mean = sums.result()
            merged, carried = merged_of(following, module), residual_of(self._current, module)
            target = exact if carried is None else exact.plus(carried)
            lost.append(scale * norm(exact.minus(mean)))
            exact_norms.append(scale * norm(exact))
            missed.append(scale * norm(merged.minus(target)))
            merged_norms.append(scale * norm(merged))
            worst = max(worst, _ratio(lost[-1], exact_norms[-1]))
        total = math.hypot(*exact_norms)
        return {
            "lora_aggregation_error": _ratio(math.hypot(*lost), total),
            "lora_aggregation_error_worst": worst,
            "lora_server_error": _ratio(math.hypot(*missed), total),
            "lora_update_norm": math.hypot(*merged_norms),
        }


class _Products:
    """``sum_k n_k B_k A_k`` of one pair and the sums of its factors."""

    def __init__(self) -> None:
        self._parts: list[Factors] = []
        self._weights: list[float] = []
        self._total = 0.0
        self._mean: Factors | None = None
        self._dense: Tensor | None = None

    def add(self, adapter: Adapter, module: str, weight: float) -> None:
        product = factors_of(adapter, module, torch.float32)  # as it is: kept without a copy
        self._parts.append(product)
        self._weights.append(weight)
        self._total += weight
        weighted = mean_of([_double(product)], [weight])
        self._mean = weighted if self._mean is None else _sum(self._mean, weighted)
        if len(self._parts) * (product.a.numel() + product.b.numel()) > self._limit(product):
            self._fold()

    def _limit(self, product: Factors) -> int:
        """Return how many values the dense sum has; float32 factors may have twice as many."""
        return 2 * product.a.shape[1] * product.b.shape[0]

    def _fold(self) -> None:
        sums = stacked([_double(part) for part in self._parts], self._weights)
        dense = sums.b @ sums.a
        self._dense = dense if self._dense is None else self._dense + dense
        self._parts, self._weights = [], []

    def result(self) -> tuple[Factors, Factors]:
        """Return the mean of the products, and the product of the means of the factors."""
        assert self._mean is not None
        parts = [_double(part) for part in self._parts]
        weights = [weight / self._total for weight in self._weights]
        if self._dense is not None:
            rest = Factors(self._dense, torch.eye(len(self._dense), dtype=torch.float64))
            parts, weights = [*parts, rest], [*weights, 1 / self._total]
        mean = Factors(self._mean.a / self._total, self._mean.b / self._total)
        return stacked(parts, weights), mean


def _double(product: Factors) -> Factors:
    return Factors(product.a.double(), product.b.double())


def _sum(one: Factors, two: Factors) -> Factors:
    return Factors(one.a + two.a, one.b + two.b)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
