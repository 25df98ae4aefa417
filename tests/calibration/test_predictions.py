import math

import numpy as np
import pytest
import torch

from fl2ora.calibration.metrics.binned import ece
from fl2ora.calibration.predictions import (
    blocks_of_logits,
    blocks_of_probabilities,
    probabilities_of,
    scores_of,
)


def scores_from_logits(logits, labels):
    return scores_of(blocks_of_logits(logits, labels))


def test_softmax_is_done_in_float64():
    logits = torch.tensor([[0.0, math.log(3.0)]], dtype=torch.float64)
    assert probabilities_of(logits).tolist()[0] == pytest.approx([0.25, 0.75], abs=1e-15)
    assert probabilities_of(logits.half()).dtype == torch.float64


def test_half_precision_confidence_does_not_round_to_one():
    # 1 / (1 + e^-10): float16 cannot tell it from 1, nor can a float16 softmax.
    logits = torch.tensor([[10.0, 0.0]], dtype=torch.float16)
    expected = 1 / (1 + math.exp(-10))
    scores = scores_from_logits(logits, torch.tensor([0]))
    assert scores.confidence[0] == pytest.approx(expected, abs=1e-15)
    assert torch.tensor(expected, dtype=torch.float16) == 1


def test_huge_logits_neither_overflow_nor_lose_the_nll():
    scores = scores_from_logits(np.array([[1e4, 0.0]]), np.array([1]))
    assert scores.nll[0] == 1e4
    assert scores.confidence[0] == 1.0
    assert scores.brier[0] == 2.0


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_numpy_and_torch_agree_for_every_dtype(dtype):
    logits = np.random.default_rng(0).normal(size=(7, 4)).astype(dtype)
    labels = np.array([0, 1, 2, 3, 0, 1, 2])
    ours = scores_from_logits(logits, labels)
    theirs = scores_from_logits(torch.from_numpy(logits), torch.from_numpy(labels))
    np.testing.assert_array_equal(ours.confidence, theirs.confidence)
    np.testing.assert_array_equal(ours.nll, theirs.nll)


def test_bfloat16_and_gradients_are_welcome():
    logits = torch.randn(3, 2).bfloat16().requires_grad_()
    assert scores_from_logits(logits, torch.tensor([0, 1, 1])).nll.shape == (3,)


def test_ties_go_to_the_lowest_index():
    logits = np.zeros((2, 40))
    scores = scores_from_logits(logits, np.array([0, 39]))
    assert scores.predicted.tolist() == [0, 0]
    assert scores.correct.tolist() == [1, 0]
    late = np.zeros((1, 40))
    late[0, [17, 33]] = 5
    assert scores_from_logits(late, np.array([17])).predicted.tolist() == [17]


def test_one_class_is_always_right():
    scores = scores_from_logits(np.array([[3.0], [-2.0]]), np.array([0, 0]))
    assert scores.confidence.tolist() == [1, 1]
    assert scores.nll.tolist() == [0, 0]
    assert scores.brier.tolist() == [0, 0]


@pytest.mark.parametrize("rows", [np.ones((3, 1)), torch.ones(3, 1)])
def test_probabilities_of_one_class_are_refused(rows):
    with pytest.raises(ValueError, match=r"K >= 2, found \(3, 1\)"):
        ece(rows, np.zeros(3, np.int64))


def test_no_rows_give_empty_scores():
    scores = scores_from_logits(np.zeros((0, 3)), np.zeros(0, np.int64))
    assert scores.confidence.shape == scores.predicted.shape == (0,)
    assert probabilities_of(torch.zeros(0, 3)).shape == (0, 3)


def test_many_blocks_equal_one_by_one():
    logits = np.random.default_rng(1).normal(size=(3000, 100))  # three blocks
    labels = np.arange(3000) % 100
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    p = shifted / shifted.sum(1, keepdims=True)
    of_label = p[np.arange(3000), labels]
    scores = scores_from_logits(logits, labels)
    np.testing.assert_allclose(scores.confidence, p.max(1), rtol=1e-13)
    np.testing.assert_allclose(scores.nll, -np.log(of_label), rtol=1e-13)
    np.testing.assert_allclose(scores.brier, (p**2).sum(1) - 2 * of_label + 1, atol=1e-14)


def test_a_read_only_memory_map_is_accepted(tmp_path):
    np.save(tmp_path / "p.npy", np.full((5, 4), 0.25, np.float32))
    mapped = np.load(tmp_path / "p.npy", mmap_mode="r")
    scores = scores_of(blocks_of_probabilities(mapped, np.zeros(5, np.int32)))
    assert scores.confidence.tolist() == [0.25] * 5


def test_probability_zero_of_the_label_is_infinite_nll():
    scores = scores_of(blocks_of_probabilities(np.array([[1.0, 0.0]]), np.array([1])))
    assert scores.nll.tolist() == [math.inf]


def test_rounding_above_one_is_cut_off():
    p = np.array([[np.float32(1.0000001), 0]], np.float32)
    scores = scores_of(blocks_of_probabilities(p, np.array([0])))
    assert scores.confidence.tolist() == [1.0]
    assert scores.nll.tolist() == [0.0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_logits_are_counted(bad):
    logits = np.zeros((5000, 100))
    logits[[3, 4200], 50] = bad
    with pytest.raises(ValueError, match=r"2 of 5000 rows hold NaN or infinity \(first: row 3"):
        scores_from_logits(logits, np.zeros(5000, np.int64))
    with pytest.raises(ValueError, match="2 of 5000 rows"):
        probabilities_of(logits)


@pytest.mark.parametrize("row", [[2.0, -1.0], [0.7, 0.7], [np.nan, 1.0], [0.1, 0.2]])
def test_rows_that_are_no_distribution_are_counted(row):
    rows = np.array([[0.5, 0.5], row])
    with pytest.raises(ValueError, match="1 of 2 rows are no probabilities"):
        scores_of(blocks_of_probabilities(rows, np.array([0, 0])))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 2]), r"1 of 2 labels lie outside 0 .. 1 \(first: 2\)"),
        (np.array([-1, -1]), "2 of 2 labels"),
        (np.array([0]), r"labels must have shape \(2,\)"),
        (np.array([0.0, 1.0]), "labels must be integers, found float64"),
        (torch.tensor([True, False]), "labels must be integers"),
    ],
)
def test_labels_are_checked(labels, message):
    with pytest.raises(ValueError, match=message):
        scores_from_logits(np.zeros((2, 2)), labels)


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (np.zeros(3), r"shape \(N, K\)"),
        (np.zeros((3, 0)), "K >= 1"),
        (np.zeros((3, 2), np.int64), "floating point"),
        (torch.zeros(3, 2, dtype=torch.int64), "floating point"),
    ],
)
def test_logits_are_checked(logits, message):
    with pytest.raises(ValueError, match=message):
        scores_from_logits(logits, np.zeros(3, np.int64))


def test_finite_logits_whose_sum_overflows_are_fine():
    scores = scores_from_logits(np.array([[1.5e308, 1.5e308, 0.0]]), np.array([0]))
    assert scores.confidence.tolist() == [0.5]
