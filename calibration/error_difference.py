"""The score test behind ``fl2ora.calibration.comparison``: two squared calibration errors.

One model has in bin b the weight w_b, the mean gap s_b (confidence minus correct) with variance
v_b, and the unbiased squared error ``T_m = sum_b w_b f_b (s_b^2 - v_b)``; ``f_b`` is close to 1.
The hypothesis is ``sum w s^2`` of the first minus that of the second = d. Under it

1. the gaps are moved, together and no further than need be in the metric of their covariance, to
   gaps that satisfy it (which keeps their signs where these are sure), and drawn towards their
   mean as far as they differ by noise alone;
2. both errors are estimated under d by averaging their roots, half a standard error is added to
   be on the safe side, and the gaps are scaled to that error;
3. the variances are those of outcomes with such gaps, never below what the outcomes show;
4. ``T_1 - T_2`` is drawn as ``d + sum w (2 s z + f (z^2 - v))``, first minus second, z normal.

Nothing but the last line's normal z is an approximation for many examples; in particular where
both errors are 0 and only the quadratic part is left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fl2ora.calibration.binning import Floats, Integers

DRAWS = 4000
"""Draws under a hypothesis, the same normal numbers for every hypothesis: ends do not jitter."""

SAFETY = 0.5
"""Standard errors added to the error under the hypothesis."""

_JITTER = 1e-6
_HALVINGS = 50
_BISECTIONS = 14


@dataclass(frozen=True)
class Side:
    """What is known of one model; ``(B,)`` over the bins with at least two units.

    A unit is an example or a client.

    Attributes:
        index: which of the M bins.
        num_bins: M.
        total: examples in all bins.
        weight: share of all examples.
        count: examples.
        confidence: mean confidence.
        gap: mean confidence minus accuracy, s.
        least: least variance of one example's outcome that the outcomes allow for.
        cluster: variance of ``gap`` between clients; 0 where units are examples.
        inflation: f, ``n^2 / sum_{u != v} n_u n_v``.
        unit_weight: ``(U, B)`` each client's examples as a share of all; None for examples.
        square: the unbiased squared error.
    """

    index: Integers
    num_bins: int
    total: float
    weight: Floats
    count: Floats
    confidence: Floats
    gap: Floats
    least: Floats
    cluster: Floats
    inflation: Floats
    unit_weight: Floats | None
    square: float

    def variance(self, gaps: Floats) -> Floats:
        """Return the variance ``(B,)`` of ``gap`` where the true gaps are ``gaps``."""
        chance = np.clip(self.confidence - gaps, 0, 1)
        outcome = np.maximum(chance * (1 - chance), self.least)
        variance: Floats = np.maximum(outcome / self.count, self.cluster)
        return variance

    def share_variance(self, gaps: Floats) -> float:
        """Return the variance of ``sum w s^2`` that comes from the weights being drawn."""
        squares = gaps**2
        if self.unit_weight is None:
            mean = float((self.weight * squares).sum())
            return max(0.0, float((self.weight * squares**2).sum()) - mean**2) / self.total
        units = len(self.unit_weight)
        mean = float((self.weight * squares).sum())
        parts = self.unit_weight @ squares - self.unit_weight.sum(axis=1) * mean
        return units / (units - 1) * float((parts**2).sum())

    def square_variance(self, square: float) -> float:
        """Return the variance of the estimated error where the true error is ``square``."""
        gaps = self.scaled(self.gap, square)
        variance = self.variance(gaps)
        terms = self.weight**2 * (4 * gaps**2 * variance + 2 * (self.inflation * variance) ** 2)
        return float(terms.sum()) + self.share_variance(gaps)

    def scaled(self, gaps: Floats, square: float) -> Floats:
        """Return ``gaps`` times the factor that makes their weighted square ``square``."""
        own = float((self.weight * gaps**2).sum())
        if own <= 0:
            gaps, own = np.ones_like(gaps), float(self.weight.sum())
        scaled: Floats = gaps * math.sqrt(square / own)
        return scaled

    def denoised(self, gaps: Floats, variance: Floats) -> Floats:
        """Return ``gaps`` drawn towards their mean by the share of noise in their spread."""
        share = self.weight / self.weight.sum()
        mean = float((share * gaps).sum())
        spread = max(0.0, float((share * ((gaps - mean) ** 2 - variance)).sum()))
        kept: Floats = mean + spread / (spread + variance) * (gaps - mean)
        return kept


class Outcome(NamedTuple):
    """Interval of the difference and two-sided p-value of its being 0."""

    low: float
    high: float
    p_value: float


class ScoreTest:
    """The distribution of the estimated difference under any hypothesis.

    Args:
        first: the first model.
        second: the second.
        correlation: ``(2 M, 2 M)`` of the gaps, those of the first model in front.
        freedom: degrees of freedom of the variances where they come from few clients; 0 for many.
        seed: of the draws.
    """

    def __init__(
        self, first: Side, second: Side, correlation: Floats, freedom: int, seed: int
    ) -> None:
        self.sides = first, second
        self.value = first.square - second.square
        m, rng = first.num_bins, np.random.default_rng(seed)
        normal = rng.standard_normal((DRAWS, 2 * m))
        self._share_noise = rng.standard_normal((DRAWS, 2))
        if freedom:
            scale = np.sqrt(freedom / rng.chisquare(freedom, (DRAWS, 1)))
            normal, self._share_noise = normal * scale, self._share_noise * scale
        columns = np.concatenate([first.index, m + second.index])
        among = correlation[np.ix_(columns, columns)]
        factor = np.linalg.cholesky(among + _JITTER * np.eye(len(columns)))
        factor /= math.sqrt(1 + _JITTER)
        noise = normal[:, columns] @ factor.T
        self._noise = np.split(noise, [len(first.index)], axis=1)
        self._variance = [side.variance(side.gap) for side in self.sides]
        self._factor = factor * np.sqrt(np.concatenate(self._variance))[:, None]
        signed = np.concatenate([first.weight, -second.weight])[:, None]
        self._values, axes = np.linalg.eigh(self._factor.T @ (signed * self._factor))
        gaps = np.concatenate([first.gap, second.gap])
        self._point = axes.T @ np.linalg.solve(self._factor, gaps)
        self._back = self._factor @ axes
        common = sum(max(side.square, 0.0) for side in self.sides) / 2
        self._precision = [1 / side.square_variance(common) for side in self.sides]

    def run(self, level: float) -> Outcome:
        """Return the interval of the given level, and the p-value of a difference of 0."""
        place = math.floor((1 - level) / 2 * (DRAWS + 1)) - 1
        if place < 0:
            raise ValueError(f"level: expected at most {1 - 2 / (DRAWS + 1):.4f}, found {level}")
        drawn = self.draws(0.0)
        below, above = int((drawn <= self.value).sum()), int((drawn >= self.value).sum())
        p_value = min(1.0, 2 * (1 + min(below, above)) / (1 + DRAWS))
        ends = [self._end(place, sign, drawn) for sign in (-1, 1)]
        return Outcome(ends[0], ends[1], p_value)

    def draws(self, difference: float) -> Floats:
        """Return ``(DRAWS,)`` of the estimated difference where the true one is ``difference``."""
        total = np.full(DRAWS, float(difference))
        moved = self._moved(difference)
        squares = self._squares(difference)
        for k, sign in ((0, 1), (1, -1)):
            side = self.sides[k]
            gaps = side.scaled(side.denoised(moved[k], self._variance[k]), squares[k])
            variance = side.variance(gaps)
            total += sign * (self._noise[k] @ (2 * side.weight * gaps * np.sqrt(variance)))
            total += sign * ((self._noise[k] ** 2 - 1) @ (side.weight * side.inflation * variance))
            total += sign * self._share_noise[:, k] * math.sqrt(side.share_variance(gaps))
        return total

    def _squares(self, difference: float) -> tuple[float, float]:
        """Return the errors of both models where they differ by ``difference``."""
        excess = max(difference, 0.0), max(-difference, 0.0)
        roots = [
            math.sqrt(max(side.square - more, 0.0))
            for side, more in zip(self.sides, excess, strict=True)
        ]
        trust = sum(self._precision)
        root = sum(p * r for p, r in zip(self._precision, roots, strict=True)) / trust
        common = root**2 + SAFETY / math.sqrt(trust)
        return common + excess[0], common + excess[1]

    def _moved(self, difference: float) -> list[Floats]:
        """Return the nearest gaps whose errors differ by ``difference``: a Lagrange multiplier."""
        values, point = self._values, self._point
        least, most = float(values.min()), float(values.max())
        low = -(1 - 1e-9) / most if most > 0 else -1e150
        high = -(1 - 1e-9) / least if least < 0 else 1e150
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            found = float((values * (point / (1 + middle * values)) ** 2).sum())
            low, high = (middle, high) if found > difference else (low, middle)
        moved = self._back @ (point / (1 + (low + high) / 2 * values))
        return np.split(moved, [len(self.sides[0].index)])

    def _end(self, place: int, sign: int, at_zero: Floats) -> float:
        """Return the farthest difference below (-1) or above (1) the value that is not rejected.

        Whether 0 is inside is decided by the draws at 0, so that interval and p-value agree.
        """

        def inside(drawn: Floats) -> bool:
            kept = float(np.partition(-sign * drawn, DRAWS - 1 - place)[DRAWS - 1 - place])
            return -sign * self.value <= kept

        step = 4 * float(at_zero.std()) + 1e-12
        near, far = self.value, self.value + sign * step
        zero_ahead = sign * self.value < 0
        if zero_ahead and not inside(at_zero):
            far = 0.0
        else:
            near = 0.0 if zero_ahead else near
            far = max(near, far) if sign > 0 else min(near, far)
            for _ in range(20):
                if not inside(self.draws(far)):
                    break
                near, far = far, far + sign * step
                step *= 2
        for _ in range(_BISECTIONS):
            middle = (near + far) / 2
            near, far = (middle, far) if inside(self.draws(middle)) else (near, middle)
        return min(max(near, -1.0), 1.0)  # squares of gaps in [-1, 1]
