"""The two small examples, worked by hand or with numpy alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.strategies.lora._lora_strategy import LoRAStrategy
from fl2ora.strategies.lora.fedex_lora import FedExLoRA
from fl2ora.strategies.lora.fedit import FedIT
from fl2ora.strategies.lora.fedsvd import FedSVD
from fl2ora.strategies.lora.ffa_lora import FFALoRA
from fl2ora.strategies.lora.flexlora import FlexLoRA
from fl2ora.strategies.lora.flora import FLoRA
from fl2ora.strategies.lora.flora_na import FLoRANA
from fl2ora.strategies.lora.hetlora import HetLoRA
from fl2ora.strategies.lora.lora_fair import LoRAFAIR
from lora_factors import (
    RESIDUAL_A,
    RESIDUAL_B,
    A,
    B,
    dense,
    example_one,
    example_two,
    mean_product,
    pair,
    updates,
)
from planned import combine

EXACT = np.array([[1.375, 4.5], [0.125, -1.5]])  # Ex-E2
START = pair((0, 0), (1, 1))


def with_residual(adapter: Adapter, rank: int) -> Adapter:
    return {**adapter, RESIDUAL_A: torch.zeros(rank, 2), RESIDUAL_B: torch.zeros(2, rank)}


def test_the_mean_products_of_the_examples() -> None:
    np.testing.assert_allclose(mean_product(example_one()), np.diag([0.5, 0.5]))
    np.testing.assert_allclose(mean_product(example_two()), EXACT)


def test_fedit_averages_the_factors() -> None:
    np.testing.assert_allclose(dense(combine(FedIT(), START, example_one())), np.full((2, 2), 0.25))
    result = combine(FedIT(), START, example_two())
    assert result[B].flatten().tolist() == [2.5, -0.25]
    assert result[A].flatten().tolist() == [0.625, 1.5]
    np.testing.assert_allclose(dense(result), [[1.5625, 3.75], [-0.15625, -0.375]])


def test_flexlora_is_the_best_rank_one() -> None:
    result = combine(FlexLoRA(), START, example_two())
    assert result[B].flatten().tolist() == pytest.approx([4.70286, -1.415515], abs=1e-5)
    assert result[A].flatten().tolist() == pytest.approx([0.260752, 0.965406], abs=1e-5)
    assert np.linalg.norm(dense(result) - EXACT) == pytest.approx(0.534485, abs=1e-6)


def test_rows_of_another_length_are_the_same_update() -> None:
    plain = combine(FlexLoRA(), START, example_two())
    short = combine(FlexLoRA(row_norm=0.5), START, example_two())
    assert float(short[A].norm()) == pytest.approx(0.5)
    np.testing.assert_allclose(dense(short), dense(plain), atol=1e-6)


def test_lora_fair_corrects_b_by_least_squares() -> None:
    result = combine(LoRAFAIR(ridge=0.0), START, example_two())
    moved = (result[B].flatten() - torch.tensor([2.5, -0.25])).tolist()
    assert moved == pytest.approx([0.381657, -0.572485], abs=1e-6)
    assert result[A].flatten().tolist() == [0.625, 1.5]
    assert np.linalg.norm(dense(result) - EXACT) == pytest.approx(0.83205, abs=1e-6)


def test_a_large_ridge_leaves_fedit() -> None:
    result = combine(LoRAFAIR(ridge=1e12), START, example_two())
    np.testing.assert_allclose(dense(result), dense(combine(FedIT(), START, example_two())))


def test_a_ridge_is_the_minimum_of_its_objective() -> None:
    """Against least squares of numpy: the ridge as rows below the design matrix."""
    ridge = 0.3
    result = combine(LoRAFAIR(ridge=ridge), START, example_two())
    a = np.array([[0.625, 1.5]])
    missing = EXACT - np.array([[2.5], [-0.25]]) @ a
    design = np.vstack([a.T, [[np.sqrt(ridge)]]])
    wanted = np.vstack([missing.T, np.zeros((1, 2))])
    step = np.linalg.lstsq(design, wanted, rcond=None)[0].T
    np.testing.assert_allclose(result[B].numpy(), np.array([[2.5], [-0.25]]) + step, atol=1e-6)


def test_flora_na_reaches_the_svd_of_two_clients_of_rank_one() -> None:
    """Their factors span the plane, so the best weights can form the best product of rank 1."""
    result = combine(FLoRANA(), START, example_two())
    assert np.linalg.norm(dense(result) - EXACT) == pytest.approx(0.534485, abs=1e-6)
    # By hand: A = x (1, 0) + x' (.5, 2) along (.260752, .965406), as long as the mean (.625, 1.5).
    direction = np.array([0.260752, 0.965406])
    expected = direction * np.hypot(0.625, 1.5)
    assert result[A].flatten().tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_hetlora_weighs_by_the_norms_of_the_products() -> None:
    result = combine(HetLoRA(), START, example_two())
    # |B_1 A_1| = sqrt(5), |B_2 A_2| = sqrt(10 * 4.25): z = (.255397, .744603)
    first, second = 0.255397, 0.744603
    expected_b = [first * 1 + second * 3, first * 2 - second]
    assert result[B].flatten().tolist() == pytest.approx(expected_b, abs=1e-5)
    assert result[A].flatten().tolist() == pytest.approx([first + second / 2, 2 * second], abs=1e-5)


def test_hetlora_without_any_movement_weighs_by_examples() -> None:
    still = updates([pair((0, 0), (4, 0)), pair((0, 0), (0, 4))], [10, 30])
    assert combine(HetLoRA(), START, still)[A].flatten().tolist() == [1.0, 3.0]


def test_ffa_and_fedsvd_on_a_common_a() -> None:
    clients = updates([pair((1, 2), (1, 1)), pair((3, -1), (1, 1))], [10, 30])
    expected = [[2.5, 2.5], [-0.25, -0.25]]
    fixed = combine(FFALoRA(), START, clients)
    np.testing.assert_allclose(dense(fixed), expected)
    assert torch.equal(fixed[A], START[A])
    turned = combine(FedSVD(), START, clients)
    np.testing.assert_allclose(dense(turned), expected, atol=1e-6)
    assert turned[A].flatten().tolist() == pytest.approx([0.707107, 0.707107], abs=1e-6)
    assert turned[B].flatten().tolist() == pytest.approx([3.535534, -0.353553], abs=1e-6)


def test_fedex_adds_the_residual_as_it_is_not_transposed() -> None:
    result = combine(FedExLoRA(), with_residual(START, 1), example_two())
    assert result[B].flatten().tolist() == [2.5, -0.25]
    carried = (result[RESIDUAL_B] @ result[RESIDUAL_A]).numpy()
    np.testing.assert_allclose(carried, [[-0.1875, 0.75], [0.28125, -1.125]], atol=1e-6)
    np.testing.assert_allclose(dense(result), EXACT, atol=1e-6)


def test_flora_weighs_one_factor_only() -> None:
    result = combine(FLoRA(), with_residual(START, 2), example_two())
    assert not result[B].any()
    carried = (result[RESIDUAL_B] @ result[RESIDUAL_A]).numpy()
    np.testing.assert_allclose(carried, EXACT, atol=1e-6)
    wrong = [[0.90625, 3.375], [-0.15625, -1.125]]  # with p_k in both factors
    assert np.abs(carried - wrong).max() > 0.3


def test_unused_rows_of_a_residual_are_zero() -> None:
    result = combine(FLoRA(), with_residual(START, 2), example_two()[:1])
    assert result[RESIDUAL_A].any(dim=1).tolist() == [True, False]
    assert result[RESIDUAL_B].any(dim=0).tolist() == [True, False]


@pytest.mark.parametrize("strategy", [FlexLoRA(), FedSVD(), FLoRANA()])
def test_where_nothing_was_learned_the_factors_stay(strategy: LoRAStrategy) -> None:
    """The singular vectors of nothing would be the axes, the same for every pair."""
    start = pair((0, 0), (0.3, -0.4))
    result = combine(strategy, start, updates([start, start], [1, 2]))
    assert torch.equal(result[A], start[A])
    assert not result[B].any()
