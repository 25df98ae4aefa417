"""Drawing new sums from given ones: other examples, other clients, or a calibrated world.

Additive sums are enough to bootstrap: a confidence bin holds so many right and so many wrong
examples of known mean confidence, and examples in the same of these cells differ only by where in
the bin they lie. Drawing N examples from the cells (multinomial rather than Poisson, which keeps N)
is therefore the ordinary bootstrap, except for that spread inside a cell: at most ``1 / (4 M^2)``
of variance per example, which is left out. A bin without a wrong (or right) example is drawn from
as if half an example more of either kind had been seen: otherwise it could never show one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fl2ora.calibration.binning import Floats, bin_index
from fl2ora.calibration.metrics.adaptive import group_cuts
from fl2ora.calibration.stats import CalibrationStats
from fl2ora.calibration.stats_spec import TABLE_FIELDS

_TRIPLES = (
    ("count", "confidence", "correct"),
    ("fine_count", "fine_confidence", "fine_correct"),
    ("class_count", "class_probability", "class_label"),
    ("top_count", "top_confidence", "top_correct"),
)


def resample_examples(stats: CalibrationStats, rng: np.random.Generator) -> CalibrationStats:
    """Return the sums of N examples drawn with replacement from those in ``stats``.

    Confidence bins and fine histogram are drawn separately, so a metric should use one of them.
    ``nll`` and ``brier`` get normal noise of their standard error. Class-wise sums cannot be drawn,
    as one example stands in K cells: the result is without them.
    """
    stats, n = without_classwise(stats), stats.num_examples
    if n == 0:
        return stats
    wrong, right = _draw_cells(stats.count, _shrunk(stats.correct, stats.count), rng)
    mean = _ratio(stats.confidence, stats.count)
    misses = stats.count - stats.correct
    conf_wrong = np.where(
        misses > 0, _ratio(stats.confidence - stats.confidence_correct, misses), mean
    )
    conf_right = np.where(stats.correct > 0, _ratio(stats.confidence_correct, stats.correct), mean)
    of_means = misses * conf_wrong**2 + stats.correct * conf_right**2
    spread = _ratio(stats.confidence_squared - of_means, stats.count)
    squares = wrong * conf_wrong**2 + right * conf_right**2 + (wrong + right) * spread
    fine_wrong, fine_right = _draw_cells(stats.fine_count, _fine_shrunk(stats), rng)
    fine_count = fine_wrong + fine_right
    return replace(
        stats,
        count=wrong + right,
        correct=right,
        confidence=wrong * conf_wrong + right * conf_right,
        confidence_squared=squares,
        confidence_correct=right * conf_right,
        nll=_with_noise(stats.nll, stats.nll_squared, n, rng),
        brier=_with_noise(stats.brier, stats.brier_squared, n, rng),
        fine_count=fine_count,
        fine_correct=fine_right,
        fine_confidence=fine_count * _ratio(stats.fine_confidence, stats.fine_count),
    )


def resample_calibrated(stats: CalibrationStats, rng: np.random.Generator) -> CalibrationStats:
    """Return sums as a perfectly calibrated model with the confidences of ``stats`` would give.

    Every bin keeps its examples and confidences; each is right with the bin's mean confidence.
    ``nll``, ``brier`` and class-wise sums are not drawn: they stay, and are left out, respectively.
    """
    stats = without_classwise(stats)
    right = _draw_right(stats.count, stats.confidence, rng)
    fine_right = _draw_right(stats.fine_count, stats.fine_confidence, rng)
    product = right * _ratio(stats.confidence, stats.count)
    return replace(stats, correct=right, confidence_correct=product, fine_correct=fine_right)


def client_resampler(
    clients: Sequence[CalibrationStats],
) -> Callable[[np.random.Generator], CalibrationStats]:
    """Return a function that adds up as many clients as given, drawn with replacement.

    Raises:
        ValueError: no clients, or clients of different specs.
    """
    if not clients:
        raise ValueError("a bootstrap over clients needs at least one client")
    spec = sum(clients, CalibrationStats.zero(clients[0].spec)).spec  # refuses different specs
    shapes = spec.shapes()
    rows = np.stack(
        [np.concatenate([getattr(c, name).ravel() for name in shapes]) for c in clients]
    )
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])[:-1]

    def draw(rng: np.random.Generator) -> CalibrationStats:
        times = rng.multinomial(len(clients), np.full(len(clients), 1 / len(clients)))
        parts = np.split(times.astype(np.float64) @ rows, ends)
        arrays = {
            name: part.reshape(shape)
            for (name, shape), part in zip(shapes.items(), parts, strict=True)
        }
        return CalibrationStats(spec, **arrays)

    return draw


def gap_noise(drawn: CalibrationStats, stats: CalibrationStats) -> CalibrationStats:
    """Return sums whose per-bin gap (confidence minus correct) is that of ``drawn`` off ``stats``.

    A gap metric of the result, such as ECE, is what sampling noise alone contributes.
    """
    n, m = float(drawn.count.sum()), float(stats.count.sum())
    changed: dict[str, Any] = {}
    for count, value, outcome in _TRIPLES:
        gap = getattr(stats, value) - getattr(stats, outcome)
        gap_drawn = getattr(drawn, value) - getattr(drawn, outcome)
        half = getattr(stats, count) / 2
        changed[outcome] = half
        changed[value] = half + (gap_drawn * (m / n) - gap if n else 0 * gap)
    return replace(stats, **changed)


def without_classwise(stats: CalibrationStats) -> CalibrationStats:
    """Return ``stats`` with the class-wise sums left out."""
    spec = replace(stats.spec, classwise=False)
    empty: dict[str, Any] = dict.fromkeys(TABLE_FIELDS, np.zeros((0, spec.num_bins)))
    return replace(stats, spec=spec, **empty)


def equal_mass_sums(stats: CalibrationStats) -> tuple[Floats, Floats, Floats, Floats]:
    """Return count, sum of c, of a and of c^2 of the equal-mass groups, from the fine histogram.

    The groups of ``ace``: a cut inside a fine bin takes a proportional share of its sums.
    """
    total = float(stats.fine_count.sum())
    ends = np.concatenate([[0.0], np.cumsum(stats.fine_count)])
    cuts = group_cuts(round(total), stats.spec.num_bins).astype(np.float64)
    squares = stats.fine_confidence * _ratio(stats.fine_confidence, stats.fine_count)
    sums = (stats.fine_count, stats.fine_confidence, stats.fine_correct, squares)
    filled = np.concatenate([[True], stats.fine_count > 0])  # equal ends have no slope
    found = [
        np.diff(np.interp(cuts, ends[filled], np.concatenate([[0.0], np.cumsum(part)])[filled]))
        for part in sums
    ]
    return found[0], found[1], found[2], found[3]


def _shrunk(correct: Floats, count: Floats) -> Floats:
    """Return how many of ``count`` are right by the rate ``(A + 1/2) / (n + 1)``."""
    expected: Floats = count * (correct + 0.5) / (count + 1)
    return expected


def _fine_shrunk(stats: CalibrationStats) -> Floats:
    """Return the same of the fine bins, which share the half examples of their confidence bin."""
    centres = (np.arange(len(stats.fine_count)) + 0.5) / max(len(stats.fine_count), 1)
    within = stats.count[bin_index(centres, stats.spec.num_bins)]
    part = _ratio(stats.fine_count, within)
    expected: Floats = stats.fine_count * _ratio(
        stats.fine_correct + part / 2, stats.fine_count + part
    )
    return expected


def _draw_cells(count: Floats, correct: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return how many wrong and right examples each bin ``(M,)`` gets in a draw of all of them."""
    cells = np.concatenate([np.maximum(count - correct, 0), correct])
    n = round(float(cells.sum()))
    drawn = rng.multinomial(n, cells / n).astype(np.float64) if n else cells
    return drawn[: len(count)], drawn[len(count) :]


def _draw_right(count: Floats, confidence: Floats, rng: np.random.Generator) -> Floats:
    chance = np.clip(_ratio(confidence, count), 0, 1)
    return rng.binomial(np.rint(count).astype(np.int64), chance).astype(np.float64)


def _with_noise(total: Floats, squared: Floats, n: int, rng: np.random.Generator) -> Floats:
    """Return the sum of n values plus normal noise of its standard error."""
    if not np.isfinite(squared):
        return total
    variance = max(0.0, float(squared) - float(total) ** 2 / n)
    return np.asarray(total + math.sqrt(variance) * rng.standard_normal())


def _ratio(total: Floats, count: Floats) -> Floats:
    return np.divide(total, count, out=np.zeros_like(total), where=count > 0)
