"""Summing blocks of predictions into the arrays of ``CalibrationStats``."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fl2ora.calibration.binning import Floats, Integers, bin_index, sum_by_bin
from fl2ora.calibration.predictions import (
    BLOCKS_AT_ONCE,
    Block,
    Scores,
    concatenate_scores,
    scores_of_block,
)
from fl2ora.calibration.stats_spec import StatsSpec


def sums_of(blocks: Iterable[Block], spec: StatsSpec) -> dict[str, Floats]:
    """Return the arrays of ``CalibrationStats`` by field name, summed over ``blocks``."""
    total = {name: np.zeros(shape) for name, shape in spec.shapes().items()}
    waiting: list[Scores] = []
    for block in blocks:
        waiting.append(scores_of_block(block))
        if spec.classwise:
            _add_tables(total, block, waiting[-1], spec)
        if len(waiting) == BLOCKS_AT_ONCE:  # binning few rows is all overhead
            _add_scores(total, concatenate_scores(waiting), spec)
            waiting.clear()
    if waiting:
        _add_scores(total, concatenate_scores(waiting), spec)
    return total


def sums_of_scores(scores: Scores, spec: StatsSpec) -> dict[str, Floats]:
    """Return the same from the top-1 ``scores`` of N examples, for a spec without ``classwise``.

    Raises:
        ValueError: ``spec`` asks for class-wise sums, which need all probabilities.
    """
    if spec.classwise:
        raise ValueError(f"class-wise sums need whole rows of probabilities, found {spec}")
    total = {name: np.zeros(shape) for name, shape in spec.shapes().items()}
    _add_scores(total, scores, spec)
    return total


def _add_scores(total: dict[str, Floats], scores: Scores, spec: StatsSpec) -> None:
    c, a = scores.confidence, scores.correct
    bins = bin_index(c, spec.num_bins)
    for name, weights in (
        ("count", None),
        ("confidence", c),
        ("correct", a),
        ("confidence_squared", c * c),
        ("confidence_correct", c * a),
    ):
        total[name] += sum_by_bin(bins, weights, spec.num_bins)
    if spec.fine_bins:
        fine = bin_index(c, spec.fine_bins)
        for name, weights in (("fine_count", None), ("fine_confidence", c), ("fine_correct", a)):
            total[name] += sum_by_bin(fine, weights, spec.fine_bins)
    total["nll"] += scores.nll.sum()
    total["nll_squared"] += (scores.nll**2).sum()
    total["brier"] += scores.brier.sum()
    total["brier_squared"] += (scores.brier**2).sum()
    total["spiegelhalter_variance"] += ((1 - 2 * c) ** 2 * c * (1 - c)).sum()


def _add_tables(total: dict[str, Floats], block: Block, scores: Scores, spec: StatsSpec) -> None:
    """Add the ``(K, M)`` sums: of every class's probability, and by predicted class."""
    k, m = spec.num_classes, spec.num_bins
    p = np.minimum(block.probabilities.double().cpu().numpy(), 1.0)  # (n, K)
    cell = bin_index(p, m) + m * np.arange(k)  # class j, bin b -> j M + b
    of_label = cell[np.arange(len(p)), block.labels.cpu().numpy()]
    total["class_count"] += _table(cell.ravel(), None, k, m)
    total["class_probability"] += _table(cell.ravel(), p.ravel(), k, m)
    total["class_label"] += _table(of_label, None, k, m)
    top = bin_index(scores.confidence, m) + m * scores.predicted
    total["top_count"] += _table(top, None, k, m)
    total["top_confidence"] += _table(top, scores.confidence, k, m)
    total["top_correct"] += _table(top, scores.correct, k, m)


def _table(cell: Integers, weights: Floats | None, rows: int, columns: int) -> Floats:
    return sum_by_bin(cell, weights, rows * columns).reshape(rows, columns)
