"""LoRA factors inside an adapter: which tensors belong together, and products never formed.

A pair is ``A (r, i)`` and ``B (o, r)`` with the update ``B A (o, i)``; the scaling s stays outside.
Sums of products are kept as one product of the stacked factors, whose norm and singular values
come from two QR decompositions and a core as small as the stack's rank. All in float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_A = ".lora_A.weight"
_B = ".lora_B.weight"
_RESIDUAL_A = ".residual_A"
_RESIDUAL_B = ".residual_B"


@dataclass(frozen=True)
class Factors:
    """One low-rank product ``b @ a``: ``a (r, i)``, ``b (o, r)``."""

    a: Tensor
    b: Tensor

    @property
    def rank(self) -> int:
        """Return r, the number of rows of ``a``; the product's own rank may be lower."""
        return self.a.shape[0]

    def plus(self, other: Factors) -> Factors:
        """Return ``b a + b' a'`` as one product of rank r + r'."""
        return Factors(torch.cat([self.a, other.a]), torch.cat([self.b, other.b], dim=1))

    def minus(self, other: Factors) -> Factors:
        """Return ``b a - b' a'`` as one product of rank r + r'."""
        return self.plus(Factors(other.a, -other.b))

    def first(self, rank: int) -> Factors:
        """Return the same shapes with zeros beyond the first ``rank`` rows of a, columns of b."""
        kept = torch.arange(self.rank) < rank
        # Adding zero makes negative zeros plain ones, which need not travel.
        return Factors(self.a * kept[:, None] + 0.0, self.b * kept + 0.0)


def pair_names(adapter: Mapping[str, object]) -> list[str]:
    """Return the sorted module names that have both factors in ``adapter``."""
    stems = (name.removesuffix(_A) for name in adapter if name.endswith(_A))
    return sorted(stem for stem in stems if stem + _B in adapter)


def factors_of(
    adapter: Mapping[str, Tensor], module: str, dtype: torch.dtype = torch.float64
) -> Factors:
    """Return one module's factors; not copied where they have the type already."""
    return Factors(adapter[module + _A].to(dtype), adapter[module + _B].to(dtype))


def factor_names(module: str) -> tuple[str, str]:
    """Return the names of A and B of a module."""
    return module + _A, module + _B


def residual_names(module: str) -> tuple[str, str]:
    """Return the names of the factors a module carries beside the trained ones."""
    return module + _RESIDUAL_A, module + _RESIDUAL_B


def carries_residual(adapter: Mapping[str, object]) -> bool:
    """Return whether any module carries factors beside the trained ones."""
    return any(name.endswith(_RESIDUAL_A) for name in adapter)


def residual_of(adapter: Mapping[str, Tensor], module: str) -> Factors | None:
    """Return the factors a module carries as float64, None where it carries none."""
    if module + _RESIDUAL_A not in adapter:
        return None
    return Factors(adapter[module + _RESIDUAL_A].double(), adapter[module + _RESIDUAL_B].double())


def merged_of(adapter: Mapping[str, Tensor], module: str) -> Factors:
    """Return everything a module adds to its frozen weight, divided by s."""
    trained, carried = factors_of(adapter, module), residual_of(adapter, module)
    return trained if carried is None else trained.plus(carried)


def scalings(model: nn.Module) -> dict[str, float]:
    """Return s of every module of a peft model with an adapter, by the names of the pairs."""
    return {
        name.removeprefix("base_model.model."): float(next(iter(module.scaling.values())))
        for name, module in model.named_modules()
        if isinstance(getattr(module, "scaling", None), dict) and module.scaling
    }


def inner(one: Factors, two: Factors) -> Tensor:
    """Return the Frobenius inner product ``<b a, b' a'> = tr((b^T b') (a' a^T))``."""
    return ((one.b.T @ two.b) * (one.a @ two.a.T)).sum()


def norm(product: Factors) -> float:
    """Return ``|b a|_F``, that of the core ``R_b R_a^T``; exact also where large terms cancel."""
    left = torch.linalg.qr(product.b, mode="r").R
    right = torch.linalg.qr(product.a.T, mode="r").R
    return float(torch.linalg.matrix_norm(left @ right.T))


def stacked(products: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """Return ``sum_k p_k b_k a_k`` as one product: ``b = [p_1 b_1 ... p_m b_m]``, a stacked as is.

    Weighting both factors by p_k would be wrong: their product would carry its square.
    """
    return Factors(
        torch.cat([product.a for product in products]),
        torch.cat([w * p.b for w, p in zip(weights, products, strict=True)], dim=1),
    )


def centred(products: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """Return what averaging the factors apart loses, ``sum_k p_k b_k a_k - mean(b) mean(a)``.

    It is the weighted cross-covariance ``sum_k p_k (b_k - mean(b)) (a_k - mean(a))``.
    """
    mean = mean_of(products, weights)
    return stacked([Factors(p.a - mean.a, p.b - mean.b) for p in products], weights)


def mean_of(products: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """Return the weighted mean of each factor on its own, ``mean(a)`` and ``mean(b)``."""
    pairs = list(zip(weights, products, strict=True))
    return Factors(
        torch.stack([w * p.a for w, p in pairs]).sum(dim=0),
        torch.stack([w * p.b for w, p in pairs]).sum(dim=0),
    )


def best_of_rank(product: Factors, rank: int) -> tuple[Factors, float]:
    """Return the nearest product of a rank, by SVD through QR, and how far it is away.

    Args:
        product: ``b (o, R)``, ``a (R, i)``; only factors and a core are decomposed.
        rank: r of the result, whatever R is.

    Returns:
        ``a = V^T (r, i)`` with orthonormal rows, the largest entry of each by magnitude positive;
        ``b = U S (o, r)``, zero in columns whose singular value is only rounding, though their rows
        of a stay orthonormal; beyond ``min(o, i, R)`` both are zero. And ``sqrt(sum_{j>r} s_j^2)``.
    """
    q_b, r_b = torch.linalg.qr(product.b)
    q_a, r_a = torch.linalg.qr(product.a.T)
    left, values, right = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    smallest = torch.finfo(values.dtype).eps * max(product.a.shape[1], product.b.shape[0])
    values = torch.where(values > smallest * values[:1], values, 0.0)
    a, b = right @ q_a.T, (q_b @ left) * values
    peaks = a.gather(1, a.abs().argmax(dim=1, keepdim=True)).sign()
    a, b = a * peaks, b * peaks.T
    missing = max(0, rank - len(values))
    return (
        Factors(
            nn.functional.pad(a[:rank], (0, 0, 0, missing)),
            nn.functional.pad(b[:, :rank], (0, missing)),
        ),
        float(values[rank:].norm()),
    )


def change_cosine(
    now: Mapping[str, Tensor],
    start: Mapping[str, Tensor],
    before: Mapping[str, Tensor],
) -> float:
    """Return the cosine between the changes ``now - start`` and ``start - before``.

    LoRA pairs enter by their products ``B A``, so that a change of basis which leaves the update as
    it is counts as none; all other tensors enter as they are. 0 where either change is zero.
    """
    local, last, both = (torch.zeros((), dtype=torch.float64) for _ in range(3))
    paired: set[str] = set()
    for module in pair_names(start):
        paired |= {*factor_names(module), *residual_names(module)}
        here = merged_of(now, module).minus(merged_of(start, module))
        there = merged_of(start, module).minus(merged_of(before, module))
        local, last, both = (
            local + inner(here, here),
            last + inner(there, there),
            both + inner(here, there),
        )
    for name in start.keys() - paired:
        step = now[name].double() - start[name].double()
        previous = start[name].double() - before[name].double()
        local, last = local + step.square().sum(), last + previous.square().sum()
        both = both + (step * previous).sum()
    if local <= 0 or last <= 0:
        return 0.0
    return float((both / (local * last).sqrt()).clamp(-1, 1))
