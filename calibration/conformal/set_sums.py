"""How often sets of classes hold the label, and how large they are, as sums that add."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

_OUTSIDE = 0.05


@dataclass(frozen=True)
class SetSums:
    """Sums over images.

    Attributes:
        count: N.
        covered: how many sets hold the label.
        size: classes in all sets together.
    """

    count: int = 0
    covered: int = 0
    size: int = 0

    @classmethod
    def of(cls, sets: Tensor, labels: Tensor) -> SetSums:
        """Return the sums of ``sets (N, K)``, True where a class is in, and ``labels (N,)``.

        >>> import torch
        >>> sets = torch.tensor([[True, False, True], [True, True, True]])
        >>> SetSums.of(sets, torch.tensor([1, 1]))
        SetSums(count=2, covered=1, size=5)
        """
        covered = sets.gather(1, labels.long()[:, None]).sum()
        return cls(len(labels), int(covered), int(sets.sum()))

    def __add__(self, other: SetSums) -> SetSums:
        """Return the sums of the images of both."""
        return SetSums(
            self.count + other.count, self.covered + other.covered, self.size + other.size
        )

    def metrics(self) -> dict[str, float]:
        """Return ``coverage``, its 95 % interval (Clopper & Pearson), and mean ``set_size``.

        Nothing without images.

        >>> {name: round(value, 4) for name, value in SetSums(20, 20, 45).metrics().items()}
        {'coverage': 1.0, 'coverage_low': 0.8316, 'coverage_high': 1.0, 'set_size': 2.25}
        """
        if not self.count:
            return {}
        from scipy.stats import beta  # not until it is needed: few runs have sets

        hits, misses = self.covered, self.count - self.covered
        low = beta.ppf(_OUTSIDE / 2, hits, misses + 1) if hits else 0.0
        high = beta.ppf(1 - _OUTSIDE / 2, hits + 1, misses) if misses else 1.0
        return {
            "coverage": hits / self.count,
            "coverage_low": float(low),
            "coverage_high": float(high),
            "set_size": self.size / self.count,
        }


def over_clients(clients: list[SetSums]) -> dict[str, dict[str, float]]:
    """Return mean, standard deviation and worst of the clients' own ``coverage`` and ``set_size``.

    Clients without images are left out; nothing if all are.

    >>> over_clients([SetSums(10, 9, 20), SetSums(10, 7, 10), SetSums()])["worst"]
    {'coverage': 0.7, 'set_size': 2.0}
    """
    found = [sums.metrics() for sums in clients if sums.count]
    if not found:
        return {}
    columns = {name: [values[name] for values in found] for name in ("coverage", "set_size")}
    means = {name: math.fsum(values) / len(values) for name, values in columns.items()}
    spread = {
        name: math.sqrt(math.fsum((x - means[name]) ** 2 for x in values) / len(values))
        for name, values in columns.items()
    }
    worst = {"coverage": min(columns["coverage"]), "set_size": max(columns["set_size"])}
    return {"mean": means, "sd": spread, "worst": worst}
