"""What a client sends back, and the running mean over such updates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from numbers import Real

import torch
from torch import Tensor

from fl2ora.clip_tuning.adapter import Adapter, in_three

RESERVED_METRICS = frozenset({"round", "client", "event", "source", "seconds"})
"""Names the run's record uses itself; no metric of a client or a strategy may have them."""


def checked_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return what a plug-in wants on record, as plain numbers.

    Raises:
        TypeError: no mapping, a name that is no text, or a value that is no number.
        ValueError: the name is one of ``RESERVED_METRICS``.
    """
    if not isinstance(metrics, Mapping):
        raise TypeError(f"metrics: expected numbers by name, found {type(metrics).__name__}")
    for name, value in metrics.items():
        if not isinstance(name, str):
            raise TypeError(f"metrics: expected names that are texts, found {name!r}")
        if name in RESERVED_METRICS:
            raise ValueError(f"metrics: the name {name!r} is the record's own")
        if not isinstance(value, Real) or isinstance(value, bool):
            raise TypeError(f"metrics: {name}: expected a number, found {type(value).__name__}")
    return {name: float(value) for name, value in metrics.items()}


@dataclass(frozen=True)
class ClientUpdate:
    """The result of one client's local training.

    Attributes:
        client: key that stays the same between rounds.
        adapter: the client's tuned parameters after training (not the change).
        num_examples: images it trained on.
        metrics: scalars it reported, such as ``loss`` and ``steps``.
        aux: further tensors its client rule returned.
        packed: on the client alone, the parts that travel in place of the adapter if updates are
            compressed; see ``compression.base``.
    """

    client: str
    adapter: Adapter
    num_examples: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    aux: Adapter = field(default_factory=dict)
    packed: Adapter = field(default_factory=dict)


class Weighting(StrEnum):
    """How much a client counts: as its number of examples, or like every other."""

    EXAMPLES = "examples"
    UNIFORM = "uniform"

    @classmethod
    def _missing_(cls, value: object) -> Weighting:
        raise ValueError(f"weighting: expected 'examples' or 'uniform', found {value!r}")

    def of(self, update: ClientUpdate) -> float:
        """Return the weight of one update, not normalised."""
        return float(update.num_examples) if self is Weighting.EXAMPLES else 1.0


def in_order(updates: Iterable[ClientUpdate]) -> list[ClientUpdate]:
    """Collect updates by client key, so that nothing depends on who answered first."""
    return sorted(updates, key=lambda update: update.client)


class WeightedMean:
    """A mean of adapters that are added one at a time; memory does not grow with their number.

    Sums are kept as unevaluated pairs of float64 (Knuth's two-sum), about 106 bits, so that the
    float32 result does not depend on the order in which clients answer.
    """

    def __init__(self) -> None:
        self.total_weight = 0.0
        self._high: dict[str, Tensor] = {}
        self._low: dict[str, Tensor] = {}

    def add(self, adapter: Mapping[str, Tensor], weight: float) -> None:
        """Add one adapter; ``weight`` is non-negative and finite.

        Raises:
            ValueError: the weight is negative or not finite, or the names differ from before.
        """
        if not 0 <= weight < float("inf"):
            raise ValueError(f"weight: expected a finite number of at least 0, found {weight}")
        if self._high and self._high.keys() != adapter.keys():
            raise ValueError("adapter: its names differ from those added before")
        for name, tensor in adapter.items():
            self._accumulate(name, tensor.to(torch.float64) * weight)
        self.total_weight += weight

    def _accumulate(self, name: str, term: Tensor) -> None:
        if name not in self._high:
            self._high[name], self._low[name] = term.clone(), torch.zeros_like(term)
            return
        high = self._high[name]
        total = high + term
        part = total - high
        self._low[name] += (high - (total - part)) + (term - part)
        self._high[name] = total

    @classmethod
    def of(cls, updates: Iterable[ClientUpdate], weighting: Weighting) -> WeightedMean:
        """Add up the adapters of a stream of updates."""
        mean = cls()
        for update in updates:
            mean.add(update.adapter, weighting.of(update))
        return mean

    def state(self) -> Adapter:
        """Return the sums and the weight, exactly: each float64 as three float32."""
        parts: Adapter = {}
        weight = torch.tensor([self.total_weight], dtype=torch.float64)
        sums = {f"high/{n}": t for n, t in self._high.items()}
        sums |= {f"low/{n}": t for n, t in self._low.items()}
        for name, tensor in {**sums, "weight": weight}.items():
            parts |= in_three(name, tensor)
        return parts

    @classmethod
    def from_state(cls, state: Adapter) -> WeightedMean:
        """Return the mean whose ``state`` it was."""
        mean = cls()
        sums: dict[str, Tensor] = {}
        for key, tensor in sorted(state.items()):
            name = key.rpartition("/")[0]
            sums[name] = sums[name] + tensor.double() if name in sums else tensor.double()
        for name, tensor in sums.items():
            kind, _, own = name.partition("/")
            if kind == "weight":
                mean.total_weight = float(tensor)
            else:
                (mean._high if kind == "high" else mean._low)[own] = tensor
        return mean

    def result(self, dtype: torch.dtype = torch.float32) -> Adapter:
        """Return the mean, rounded once to ``dtype``.

        Raises:
            ValueError: nothing with a positive weight was added.
        """
        if self.total_weight <= 0:
            raise ValueError("no update with a positive weight was added")
        return {
            name: ((high + self._low[name]) / self.total_weight).to(dtype)
            for name, high in self._high.items()
        }
