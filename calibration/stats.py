"""Calibration as sums: what a client sends so that the server can measure the federation.

``CalibrationStats`` is a commutative monoid: ``zero`` is its identity, ``+`` is associative and
commutative (counts exactly, other sums up to float64 rounding), and the statistics of a union of
examples are the sum of the statistics of its parts. The calibration error of the sum therefore is
the calibration error of the pooled data, without a logit leaving a client. The idea is that of
Cormode & Markov, "Federated calibration and evaluation of binary classifiers" (VLDB 2023,
arXiv 2210.12526). Add these sums; averaging them, weighted or not, gives another quantity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from fl2ora.calibration.binning import Floats
from fl2ora.calibration.predictions import (
    ArrayLike,
    blocks_of_logits,
    blocks_of_probabilities,
    two_class_probabilities,
)
from fl2ora.calibration.stats_spec import StatsSpec
from fl2ora.calibration.summation import sums_of

__all__ = ["DEFAULT_SPEC", "CalibrationStats", "StatsSpec"]


DEFAULT_SPEC = StatsSpec()


@dataclass(frozen=True, eq=False)
class CalibrationStats:
    """Additive sums over examples; float64 arrays, with c the confidence, a = 1 where correct.

    Attributes:
        spec: the sizes below.
        count: ``(M,)`` examples whose confidence lies in the bin.
        confidence: ``(M,)`` sum of c.
        correct: ``(M,)`` sum of a.
        confidence_squared: ``(M,)`` sum of c^2.
        confidence_correct: ``(M,)`` sum of c a.
        nll: ``()`` sum of ``-log p`` of the label.
        nll_squared: ``()`` sum of its square, for the interval of the mean.
        brier: ``()`` sum of ``||p - onehot(label)||^2``.
        brier_squared: ``()`` sum of its square, for the interval of the mean.
        spiegelhalter_variance: ``()`` sum of ``(1 - 2c)^2 c (1 - c)``; the numerator of
            Spiegelhalter's z and the top-1 Brier score follow from the bin sums.
        fine_count: ``(G,)`` as ``count`` on the fine bins.
        fine_confidence: ``(G,)`` sum of c.
        fine_correct: ``(G,)`` sum of a.
        class_count: ``(K, M)`` examples whose probability of class j lies in the bin.
        class_probability: ``(K, M)`` sum of that probability.
        class_label: ``(K, M)`` how many of them have label j.
        top_count: ``(K, M)`` as ``count``, by predicted class.
        top_confidence: ``(K, M)`` sum of c.
        top_correct: ``(K, M)`` sum of a.
    """

    spec: StatsSpec
    count: Floats
    confidence: Floats
    correct: Floats
    confidence_squared: Floats
    confidence_correct: Floats
    nll: Floats
    nll_squared: Floats
    brier: Floats
    brier_squared: Floats
    spiegelhalter_variance: Floats
    fine_count: Floats
    fine_confidence: Floats
    fine_correct: Floats
    class_count: Floats
    class_probability: Floats
    class_label: Floats
    top_count: Floats
    top_confidence: Floats
    top_correct: Floats

    @classmethod
    def zero(cls, spec: StatsSpec = DEFAULT_SPEC) -> Self:
        """Return the statistics of no examples, the identity of ``+``."""
        return cls(spec, **{name: np.zeros(shape) for name, shape in spec.shapes().items()})

    @classmethod
    def from_logits(
        cls, logits: ArrayLike, labels: ArrayLike, spec: StatsSpec = DEFAULT_SPEC
    ) -> Self:
        """Return the sums over ``logits (N, K)`` and integer ``labels (N,)``; N may be 0.

        Any float dtype and device, numpy or torch; worked on in blocks of a few megabytes.

        Raises:
            ValueError: wrong shapes, NaN or infinite logits, labels outside ``0 .. K - 1``.

        Example:
            >>> logits = np.log(np.array([[0.8, 0.2], [0.6, 0.4]]))
            >>> stats = CalibrationStats.from_logits(logits, np.array([0, 1]))
            >>> round(float(stats.confidence.sum()), 4), float(stats.correct.sum())
            (1.4, 1.0)
        """
        _check_classes(logits, spec)
        return cls(spec, **sums_of(blocks_of_logits(logits, labels), spec))

    @classmethod
    def from_probabilities(
        cls, probabilities: ArrayLike, labels: ArrayLike, spec: StatsSpec = DEFAULT_SPEC
    ) -> Self:
        """Return the sums over ``probabilities (N, K)`` and integer ``labels (N,)``; N may be 0.

        A label of probability exactly 0 makes ``nll`` infinite; ``from_logits`` cannot underflow.

        Raises:
            ValueError: wrong shapes, rows that are no distribution, labels outside ``0 .. K - 1``.
        """
        _check_classes(probabilities, spec)
        return cls(spec, **sums_of(blocks_of_probabilities(probabilities, labels), spec))

    @classmethod
    def from_binary_scores(
        cls, scores: ArrayLike, labels: ArrayLike, spec: StatsSpec = DEFAULT_SPEC
    ) -> Self:
        """Return the sums over ``scores (N,)``, probabilities of class 1, and ``labels (N,)``.

        The confidence is that of the predicted class, ``max(s, 1 - s)``, in [1/2, 1]. How well the
        score itself is calibrated is in the class-wise sums of class 1.

        Raises:
            ValueError: a score lies outside [0, 1], or a label is neither 0 nor 1.

        Example:
            >>> stats = CalibrationStats.from_binary_scores(np.array([0.9, 0.2]), np.array([1, 0]))
            >>> stats.num_examples, round(float(stats.confidence.sum()), 4)
            (2, 1.7)
        """
        return cls.from_probabilities(two_class_probabilities(scores), labels, spec)

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, NDArray[Any]], spec: StatsSpec = DEFAULT_SPEC
    ) -> Self:
        """Return the statistics that ``to_arrays`` wrote; the reverse of it.

        Raises:
            ValueError: names or shapes differ from those of ``spec``; the message says which.
        """
        shapes = spec.shapes()
        sent = {name for name, shape in shapes.items() if math.prod(shape)}
        if missing := sorted(sent - arrays.keys()):
            raise ValueError(f"calibration statistics lack {missing}; expected {sorted(sent)}")
        if unexpected := sorted(arrays.keys() - sent):
            raise ValueError(f"calibration statistics hold unexpected {unexpected} for {spec}")
        for name in sorted(sent):
            if np.shape(arrays[name]) != shapes[name]:
                raise ValueError(
                    f"calibration statistic '{name}' must have shape {shapes[name]} for {spec}, "
                    f"found {np.shape(arrays[name])}"
                )
            if np.isnan(arrays[name]).any() or np.any(np.asarray(arrays[name]) < 0):
                raise ValueError(f"calibration statistic '{name}' holds NaN or negative values")
        filled = {
            name: np.array(arrays[name], np.float64) if name in sent else np.zeros(shape)
            for name, shape in shapes.items()
        }
        return cls(spec, **filled)

    def to_arrays(self) -> dict[str, Floats]:
        """Return the arrays by field name, those of size 0 left out: one message."""
        return {name: array for name, array in self._arrays().items() if array.size}

    @property
    def num_floats(self) -> int:
        """Floats in one message, see ``StatsSpec.num_floats``."""
        return self.spec.num_floats

    @property
    def num_examples(self) -> int:
        """How many examples were summed."""
        return round(float(self.count.sum()))

    def __add__(self, other: CalibrationStats) -> CalibrationStats:
        """Return the statistics of both sets of examples together.

        Raises:
            ValueError: the specs differ; the message names the differing sizes.
        """
        if not isinstance(other, CalibrationStats):
            return NotImplemented
        if self.spec != other.spec:
            names = [field.name for field in fields(StatsSpec)]
            pairs = [(n, getattr(self.spec, n), getattr(other.spec, n)) for n in names]
            differing = ", ".join(f"{n} {one} and {two}" for n, one, two in pairs if one != two)
            raise ValueError(f"cannot add calibration statistics of different sizes: {differing}")
        theirs = other._arrays()
        added = {name: np.asarray(mine + theirs[name]) for name, mine in self._arrays().items()}
        return CalibrationStats(self.spec, **added)

    def __radd__(self, other: Literal[0]) -> CalibrationStats:
        """Let ``sum`` start from 0."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def _arrays(self) -> dict[str, Floats]:
        return {name: getattr(self, name) for name in self.spec.shapes()}


def _check_classes(rows: ArrayLike, spec: StatsSpec) -> None:
    if spec.num_classes and getattr(rows, "ndim", 0) == 2 and rows.shape[1] != spec.num_classes:
        raise ValueError(
            f"the statistics are for {spec.num_classes} classes, found rows of {rows.shape[1]}"
        )
