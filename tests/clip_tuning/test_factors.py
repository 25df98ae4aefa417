from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl2ora.clip_tuning.clip import Clip
from fl2ora.clip_tuning.factors import (
    Factors,
    best_of_rank,
    centred,
    change_cosine,
    factors_of,
    mean_of,
    merged_of,
    norm,
    pair_names,
    residual_of,
    scalings,
    stacked,
)
from fl2ora.clip_tuning.methods.lora import LoRA
from lora_factors import A, B, M, drawn, example_one, example_two, mean_product, pair

SIZES = st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9))


def factors(rank: int, out: int, into: int, seed: int = 0) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    draw = {"generator": generator, "dtype": torch.float64}
    return Factors(torch.randn(rank, into, **draw), torch.randn(out, rank, **draw))


def two() -> tuple[list[Factors], list[float]]:
    return [factors_of(update.adapter, M) for update in example_two()], [0.25, 0.75]


def test_stacked_factors_give_the_exact_weighted_mean_product() -> None:
    product = stacked(*two())
    assert product.rank == 2
    expected = [[1.375, 4.5], [0.125, -1.5]]  # by hand from Ex-E2
    np.testing.assert_allclose(product.b @ product.a, expected, atol=1e-12)


def test_error_of_averaging_factors_apart_is_the_cross_covariance() -> None:
    products, weights = two()
    lost = centred(products, weights)
    np.testing.assert_allclose(lost.b @ lost.a, [[-0.1875, 0.75], [0.28125, -1.125]], atol=1e-12)
    assert norm(lost) == pytest.approx(1.393694, abs=1e-6)
    mean = mean_of(products, weights)
    assert mean.b.flatten().tolist() == pytest.approx([2.5, -0.25])
    assert mean.a.flatten().tolist() == pytest.approx([0.625, 1.5])
    assert norm(stacked(products, weights).minus(mean)) == pytest.approx(1.393694, abs=1e-6)


def test_averaging_equal_factors_has_no_error() -> None:
    clients = drawn(5, same_a=True)
    weights = [1 / 5] * 5
    assert norm(centred([factors_of(c.adapter, M) for c in clients], weights)) < 1e-14


def test_singular_values_of_the_example() -> None:
    best, lost = best_of_rank(stacked(*two()), 2)
    assert best.b.norm(dim=0).tolist() == pytest.approx([4.91127, 0.534485], abs=1e-5)
    assert lost == 0
    best, lost = best_of_rank(stacked(*two()), 1)
    assert lost == pytest.approx(0.534485, abs=1e-6)
    assert best.b.flatten().tolist() == pytest.approx([4.70286, -1.415515], abs=1e-5)
    assert best.a.flatten().tolist() == pytest.approx([0.260752, 0.965406], abs=1e-5)


@given(SIZES, st.integers(1, 7), st.integers(0, 99))
@settings(max_examples=60)
def test_svd_through_qr_is_the_dense_svd(sizes: tuple[int, int, int], rank: int, seed: int) -> None:
    product = factors(*sizes, seed)
    best, lost = best_of_rank(product, rank)
    u, s, v = np.linalg.svd((product.b @ product.a).numpy(), full_matrices=False)
    nearest = (u[:, :rank] * s[:rank]) @ v[:rank]
    assert best.a.shape == (rank, sizes[2])
    assert best.b.shape == (sizes[1], rank)
    np.testing.assert_allclose(best.b @ best.a, nearest, atol=1e-10)
    assert lost == pytest.approx(float(np.linalg.norm(s[rank:])), abs=1e-10)
    assert norm(product) == pytest.approx(float(np.linalg.norm(s)), rel=1e-10)
    kept = min(rank, *sizes)
    np.testing.assert_allclose((best.a @ best.a.T)[:kept, :kept], np.eye(kept), atol=1e-10)
    assert bool((best.a.gather(1, best.a.abs().argmax(1, keepdim=True)) >= 0).all())


@given(SIZES, st.integers(0, 99))
@settings(max_examples=30)
def test_the_decomposition_does_not_depend_on_the_basis(
    sizes: tuple[int, int, int], seed: int
) -> None:
    """``(B R)(R^-1 A)`` is the same update, and signs are fixed."""
    product = factors(*sizes, seed)
    turn = torch.linalg.qr(factors(sizes[0], sizes[0], sizes[0], seed + 1).a).Q * 3
    turned = Factors(torch.linalg.solve(turn, product.a), product.b @ turn)
    one, two_ = (best_of_rank(p, min(sizes))[0] for p in (product, turned))
    torch.testing.assert_close(one.b @ one.a, two_.b @ two_.a, rtol=0, atol=1e-9)
    gaps = one.b.norm(dim=0).diff().abs()
    if len(gaps) == 0 or float(gaps.min()) > 1e-3:
        torch.testing.assert_close(one.a, two_.a, rtol=0, atol=1e-6)


def test_a_deficient_product_keeps_directions_to_learn_in() -> None:
    one = factors(1, 6, 5)
    product = Factors(torch.cat([one.a, 2 * one.a, one.a]), torch.cat([one.b] * 3, dim=1))
    best, lost = best_of_rank(product, 3)
    assert lost == 0
    assert bool(best.b[:, 0].any())
    assert not best.b[:, 1:].any()
    torch.testing.assert_close(best.a @ best.a.T, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(best.b @ best.a, 4 * one.b @ one.a)


def test_norm_and_singular_values_of_a_zero_product() -> None:
    nothing = Factors(factors(2, 3, 4).a, torch.zeros(3, 2, dtype=torch.float64))
    assert norm(nothing) == 0
    best, lost = best_of_rank(nothing, 2)
    assert lost == 0
    assert not best.b.any()


def test_norm_of_a_product_that_nearly_cancels() -> None:
    """A Gram matrix would be off by 1e-8 of the terms that cancel."""
    product = factors(3, 8, 7)
    assert norm(product.minus(product)) < 1e-13 * norm(product)
    nudge = Factors(product.a[:1], 1e-11 * product.b[:, :1])
    found = norm(product.plus(nudge).minus(product))
    assert found == pytest.approx(norm(nudge), rel=1e-3)


def test_cutting_to_a_rank_keeps_shapes() -> None:
    cut = factors(3, 4, 5).first(2)
    assert cut.a.shape == (3, 5)
    assert bool(cut.a[:2].all())
    assert bool(cut.b[:, :2].all())
    assert not cut.a[2:].any()
    assert not cut.b[:, 2:].any()


def test_pair_names_leave_out_residuals() -> None:
    adapter = pair((1, 2), (3, 4))
    assert pair_names({**adapter, "alone.lora_A.weight": adapter[A], "bias": adapter[A]}) == [M]
    assert residual_of(adapter, M) is None
    assert torch.equal(merged_of(adapter, M).a, factors_of(adapter, M).a)
    adapter |= {f"{M}.residual_A": torch.ones(3, 2), f"{M}.residual_B": torch.ones(2, 3)}
    assert pair_names(adapter) == [M]
    merged = merged_of(adapter, M)
    np.testing.assert_allclose(merged.b @ merged.a, [[3 + 3, 4 + 3], [6 + 3, 8 + 3]])


def test_factors_are_float64_unless_asked_otherwise() -> None:
    adapter = pair((1, 2), (3, 4))
    assert factors_of(adapter, M).a.dtype == torch.float64
    assert factors_of(adapter, M, torch.float32).b is adapter[B]


def test_scalings_are_peft_s(tiny_clip: Clip) -> None:
    classifier = LoRA(rank=4, alpha=3.0, targets="q,o").attach(tiny_clip, ["a"], ["{}"])
    found = scalings(classifier.clip)
    assert sorted(found) == pair_names(classifier.export())
    assert set(found.values()) == {1.5}  # 3 / sqrt(4)


def test_a_residual_that_moves_counts_as_part_of_the_update() -> None:
    """What the server merged and what a client learns on top of it are one direction here."""
    zero = {f"{M}.residual_A": torch.zeros(1, 2), f"{M}.residual_B": torch.zeros(2, 1)}
    merged = {f"{M}.residual_A": torch.ones(1, 2), f"{M}.residual_B": torch.ones(2, 1)}
    before = {**pair((0, 0), (1, 1)), **zero}
    start = {**pair((0, 0), (1, 1)), **merged}
    now = {**pair((3, 3), (1, 1)), **merged}
    assert change_cosine(now, start, before) == pytest.approx(1.0)
    assert change_cosine({**now, **pair((-3, -3), (1, 1))}, start, before) == pytest.approx(-1.0)
    across = {**pair((3, -3), (1, -1)), **merged}
    assert change_cosine(across, start, before) == pytest.approx(0.0, abs=1e-12)


def test_mean_product_of_two_clients() -> None:
    products = [factors_of(update.adapter, M) for update in example_one()]
    product = stacked(products, [0.5, 0.5])
    np.testing.assert_allclose(product.b @ product.a, np.diag([0.5, 0.5]))
    np.testing.assert_allclose(mean_product(example_one()), np.diag([0.5, 0.5]))
    mean = mean_of(products, [0.5, 0.5])
    np.testing.assert_allclose(mean.b @ mean.a, np.full((2, 2), 0.25))
