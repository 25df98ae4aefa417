"""Dropout that draws the same on every processor."""

from __future__ import annotations

import pytest
import torch

from fl2ora.clip_tuning.dropout import Dropout, keep_mask


@pytest.mark.parametrize("share", [0.25, 0.1, 1 / 3, 0.7, 0.999, 1e-9])
@pytest.mark.parametrize("shape", [(3, 5), (65_536,), (130, 1_009), (512, 512)], ids=str)
def test_a_mask_is_where_float64_numbers_of_one_stream_are_below_what_is_kept(
    share: float, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(4)
    numbers = torch.rand(shape, dtype=torch.float64)
    following = torch.rand(3)
    torch.manual_seed(4)
    mask = keep_mask(torch.Size(shape), share)
    assert mask.dtype == torch.bool
    assert torch.equal(mask, numbers < 1 - share)
    assert torch.equal(torch.rand(3), following)


@pytest.mark.parametrize(("share", "bits"), [(0.25, 16), (2**-16, 16), (0.1, 32), (1 / 3, 32)])
def test_a_large_mask_takes_as_few_bits_of_the_stream_as_hold_the_share(
    share: float, bits: int
) -> None:
    parts = [2**16, 2**16, 2**16, 2**16, 1_001]  # of values, each from whole words of 64 bits
    torch.manual_seed(4)
    drawn: list[int] = []
    for count in parts:
        words = torch.empty(-(-count * bits // 64), dtype=torch.int64)
        words = words.random_(-(2**63), None).tolist()
        numbers = [(word >> shift) % 2**bits for word in words for shift in range(0, 64, bits)]
        # Numbers are read with a sign, which takes the upper half below zero.
        drawn += [(n + 2 ** (bits - 1)) % 2**bits for n in numbers[:count]]
    following = torch.rand(3)
    torch.manual_seed(4)
    mask = keep_mask(torch.Size([sum(parts)]), share)
    assert mask.dtype == torch.bool
    assert mask.tolist() == [number < round((1 - share) * 2**bits) for number in drawn]
    assert torch.equal(torch.rand(3), following)


@pytest.mark.parametrize("share", [0.25, 0.1, 0.999, 1e-12])
def test_a_large_mask_keeps_the_share_that_it_is_asked_for(share: float) -> None:
    torch.manual_seed(5)
    mask = keep_mask(torch.Size([3_000, 700]), share)
    off = float(mask.double().mean()) - (1 - share)
    assert abs(off) < 4 * (share * (1 - share) / mask.numel()) ** 0.5 + 1e-9
    # Neighbours, which come of the same word, are no more alike than others.
    pairs = (mask[:, 1:] & mask[:, :-1]).double().mean() - (1 - share) ** 2
    assert abs(float(pairs)) < 8 * (share * (1 - share) / mask.numel()) ** 0.5 + 1e-9


@pytest.mark.parametrize("share", [0.0, 1e-17, 1e-12])
@pytest.mark.parametrize("count", [10, 600_000])
def test_all_is_kept_where_next_to_nothing_is_dropped(share: float, count: int) -> None:
    assert keep_mask(torch.Size([count]), share).all()


@pytest.mark.parametrize("rows", [40, 3_000, 9_000])
def test_a_mask_from_a_generator_leaves_the_global_stream_alone(rows: int) -> None:
    torch.manual_seed(1)
    following = torch.rand(3)
    torch.manual_seed(1)
    mask = keep_mask(torch.Size((rows, 30)), 0.25, torch.Generator().manual_seed(7))
    assert torch.equal(torch.rand(3), following)
    torch.manual_seed(7)
    assert torch.equal(mask, keep_mask(torch.Size((rows, 30)), 0.25))


def test_no_values_have_an_empty_mask() -> None:
    assert keep_mask(torch.Size((0, 3)), 0.5).shape == (0, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_is_kept_is_scaled_up_and_the_rest_is_zero(dtype: torch.dtype) -> None:
    values = torch.randn(200, 50, dtype=dtype)
    torch.manual_seed(2)
    found = Dropout(0.2)(values)
    torch.manual_seed(2)
    mask = keep_mask(values.shape, 0.2)
    assert found.dtype == dtype
    torch.testing.assert_close(found, torch.where(mask, values / 0.8, 0.0))
    assert abs(float(mask.double().mean()) - 0.8) < 4 * (0.2 * 0.8 / 10_000) ** 0.5


@pytest.mark.parametrize(("share", "training"), [(0.0, True), (0.5, False)])
def test_without_dropout_values_stay_and_nothing_is_drawn(share: float, training: bool) -> None:
    values, before = torch.randn(4, 3), torch.get_rng_state()
    assert torch.equal(Dropout(share).train(training)(values), values)
    assert torch.equal(torch.get_rng_state(), before)


def test_of_all_that_is_dropped_nothing_is_left() -> None:
    assert torch.equal(Dropout(1.0)(torch.ones(3)), torch.zeros(3))


def test_other_devices_have_torchs_own() -> None:
    found = Dropout(0.5)(torch.empty(4, 3, device="meta"))
    assert found.device.type == "meta"
