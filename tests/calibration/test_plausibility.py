"""Sums of real examples always pass; the sums of no examples at all do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fl2ora.calibration.plausibility import check_plausible
from fl2ora.calibration.stats import CalibrationStats, StatsSpec


@given(
    st.integers(0, 60),
    st.integers(2, 6),
    st.sampled_from([1e-6, 0.3, 1.0, 10.0, 1e3, 1e30]),
    st.integers(0, 2**31),
    st.sampled_from([1, 2, 15]),
    st.sampled_from([0, 1, 1000]),
    st.booleans(),
)
def test_the_sums_of_any_examples_pass(
    n: int, classes: int, scale: float, seed: int, bins: int, fine: int, classwise: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n, classes, generator=generator)
    labels = torch.randint(0, classes, (n,), generator=generator)
    spec = StatsSpec(bins, classes, fine, classwise)
    stats = CalibrationStats.from_logits(logits, labels, spec)
    check_plausible(stats)
    check_plausible(stats + stats)


@pytest.mark.parametrize("confidence", [0.0, 0.2, 0.6, 1.0])
def test_confidences_on_an_edge_pass(confidence: float) -> None:
    rows = np.full((30, 2), confidence)
    rows[:, 1] = 1 - confidence
    check_plausible(
        CalibrationStats.from_probabilities(rows, np.full(30, int(confidence < 0.5)), StatsSpec(5))
    )


def test_a_table_by_class_must_count_the_same_examples() -> None:
    logits = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    spec = StatsSpec(5, 3, 0, classwise=True)
    stats = CalibrationStats.from_logits(logits, torch.zeros(20, dtype=torch.int64), spec)
    arrays = {name: array.copy() for name, array in stats.to_arrays().items()}
    arrays["class_count"][1, 0] += 1
    with pytest.raises(ValueError, match="class_count: expected N in every row"):
        check_plausible(CalibrationStats.from_arrays(arrays, spec))
    arrays = {name: array.copy() for name, array in stats.to_arrays().items()}
    arrays["top_count"][0, 0] += 1
    with pytest.raises(ValueError, match="top_count: expected a total of 20, found 21"):
        check_plausible(CalibrationStats.from_arrays(arrays, spec))
