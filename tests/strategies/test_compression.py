"""What compressions promise: known answers, no bias, how much is lost, and that it comes later."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from fl2ora.client_app.compressing import compressed
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import available, load
from fl2ora.strategies.compression.base import Compression
from fl2ora.strategies.updates import ClientUpdate

SPECS = ["fp16", "int8", "int8(bucket=3)", "top_k", "top_k(share=0.01)", "top_k(share=1.0)"]
VALUES = hnp.arrays(
    np.float32,
    st.integers(1, 40),
    elements=st.floats(-(2.0**99), 2.0**99, width=32) | st.sampled_from([0.0, 1e-40, -2.5, 1.0]),
)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def there_and_back(spec: str, values: Tensor, seed: int = 0) -> Tensor:
    compression = load(spec, Compression)
    return compression.decode(compression.encode(values, rng(seed)), len(values))


def test_every_file_is_named_here() -> None:
    assert {spec.partition("(")[0] for spec in SPECS} == {*available(Compression)}


@pytest.mark.parametrize("spec", SPECS)
@given(values=VALUES)
def test_parts_are_as_the_layout_says_and_nothing_grows(spec: str, values: np.ndarray) -> None:
    compression, x = load(spec, Compression), torch.from_numpy(values)
    parts = compression.encode(x, rng())
    assert {n: (t.dtype, len(t)) for n, t in parts.items()} == compression.layout(len(x))
    found = compression.decode(parts, len(x)).double()
    assert found.shape == x.shape
    assert bool(torch.isfinite(found).all())
    n, lost, whole = len(x), found - x.double(), float(x.double().square().sum())
    if spec == "fp16":  # one of 2^11 of the value, or of 2^39 of the largest
        largest = float(x.double().abs().max())
        assert bool((lost.abs() <= x.double().abs() / 2**11 + largest / 2**39).all())
    elif spec.startswith("int8"):  # less than a level, whatever is drawn
        bucket = compression.bucket  # type: ignore[attr-defined]
        scales = [b.abs().max() / 127 for b in x.double().split(bucket)]
        for part, scale in zip(lost.split(bucket), scales, strict=True):
            assert float(part.abs().max()) <= float(scale) * (1 + 1e-6) + 3e-45
    else:  # Stich et al. 2018, definition 2.1
        share = compression.share  # type: ignore[attr-defined]
        kept = math.ceil(share * n)
        assert float(lost.square().sum()) <= (1 - kept / n) * whole * (1 + 1e-12)
        assert int((found != 0).sum()) <= kept


def test_half_precision_of_small_changes_by_hand() -> None:
    """1e-9 is zero in float16. Of 2^-29 (1 + 2^-10) and a third, both are within 11 bits."""
    values = torch.tensor([2.0**-29 * (1 + 2.0**-10), 2.0**-29 / 3, 0.0, -(2.0**-50)])
    parts = load("fp16", Compression).encode(values, rng())
    assert int(parts["exponent"]) == -28 - 15
    assert parts["half"].tolist()[:1] == [2.0**14 * (1 + 2.0**-10)]
    expected = np.ldexp(np.ldexp(values.double().numpy(), 43).astype(np.float16).astype(float), -43)
    assert there_and_back("fp16", values).tolist() == expected.astype(np.float32).tolist()
    assert expected[1] != 0
    assert abs(expected[1] * 3 * 2.0**29 - 1) < 2.0**-11


def test_eight_bits_by_hand() -> None:
    """With 127 as the largest, a level is 1: 2.25 becomes 3 in a quarter of all draws."""
    values = torch.tensor([127.0, -2.25, 0.0, 1.0] * 500)
    parts = load("int8(bucket=4)", Compression).encode(values, rng(5))
    assert torch.equal(parts["levels"][0::4], torch.full((500,), 127, dtype=torch.int8))
    assert torch.equal(parts["levels"][2::4], torch.zeros(500, dtype=torch.int8))
    found = parts["levels"][1::4]
    assert {*found.tolist()} == {-2, -3}
    assert int((found == -3).sum()) == pytest.approx(125, abs=4 * math.sqrt(500 * 3 / 16))
    torch.testing.assert_close(parts["scales"], torch.ones(500), rtol=1e-6, atol=0)


def test_no_draw_takes_the_largest_value_beyond_the_last_level(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A scale rounded down would make of 127 and nearly 1 a level that eight bits do not have."""
    values = torch.randn(999, generator=rng(2)).abs()
    nearly = torch.full((999, 1), 1 - 2.0**-53, dtype=torch.float64)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: nearly)
    parts = load("int8(bucket=1)", Compression).encode(values, rng())
    assert torch.equal(parts["levels"], torch.full((999,), 127, dtype=torch.int8))


def test_rounding_at_random_is_unbiased_and_loses_what_is_said_on_average() -> None:
    values = torch.randn(1000, generator=rng(1))
    found = torch.stack([there_and_back("int8", values, seed) for seed in range(400)]).double()
    level = float(values.abs().max()) / 127
    # The standard deviation of one draw is at most half a level.
    assert float((found.mean(dim=0) - values).abs().max()) < 5 * level / 2 / 20
    lost = float((found - values).square().sum(dim=1).mean())
    assert lost <= 1000 / (4 * 127**2) * float(values.square().sum())
    assert lost == pytest.approx(1000 * level**2 / 6, rel=0.1)  # of places uniform in a level


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_the_largest_values_by_hand(share: float) -> None:
    values = torch.tensor([0.5, -3.0, 1.0, 3.0, -1.0, 0.0])
    compression = load(f"top_k(share={share})", Compression)
    parts = compression.encode(values, rng())
    kept = {0.5: [0, -3, 1, 3, 0, 0], 0.1: [0, -3, 0, 0, 0, 0]}[share]  # the first of equals
    assert compression.decode(parts, 6).tolist() == kept
    assert parts["mask"].tolist() == [{0.5: 0b1110, 0.1: 0b10}[share]]


def test_few_places_are_sent_as_numbers() -> None:
    """Of 1,000 values 10 are kept: 40 bytes of places, where bits would be 125."""
    values = torch.zeros(1000)
    values[torch.tensor([999, 3, 500])] = torch.tensor([1.0, 2.0, -3.0])
    compression = load("top_k(share=0.01)", Compression)
    parts = compression.encode(values, rng())
    assert sum(part.nbytes for part in parts.values()) == 80
    assert torch.equal(compression.decode(parts, 1000), values)


@pytest.mark.parametrize(("share", "form"), [(0.028, "places"), (0.03, "mask")])
def test_of_two_forms_the_shorter_one_is_sent(share: float, form: str) -> None:
    """Of 320 values, whose bits are 40 bytes, 9 or 10 are kept: 36 or 40 bytes of places."""
    layout = load(f"top_k(share={share})", Compression).layout(320)
    assert set(layout) == {"values", form}


@pytest.mark.parametrize(
    ("spec", "size", "change", "reason"),
    [
        ("top_k(share=0.5)", 4, {"mask": [0b0111]}, "mask: expected 2 places below 4, found 3"),
        ("top_k(share=0.5)", 4, {"mask": [0b10001]}, "mask: expected 2 places below 4"),
        ("top_k(share=0.01)", 200, {"places": [5, 5]}, "places: expected 2 rising ones below 200"),
        ("top_k(share=0.01)", 200, {"places": [-1, 5]}, "places: expected 2 rising"),
        ("top_k(share=0.01)", 200, {"places": [5, 200]}, "places: expected 2 rising"),
        ("top_k(share=0.5)", 4, {"values": [1.0, math.nan]}, "values: expected finite values"),
        ("int8", 2, {"levels": [-128, 0]}, "levels: expected -127 to 127"),
        ("int8", 2, {"scales": [math.inf]}, "scales: expected finite values"),
        ("fp16", 2, {"half": [math.inf, 0.0]}, "half: expected finite values"),
        ("fp16", 2, {"exponent": [201]}, "exponent: expected at most 200, found 201"),
        ("fp16", 2, {"exponent": [-(2**31)]}, "exponent: expected at most 200"),
    ],
)
def test_parts_that_no_values_have_are_refused(
    spec: str, size: int, change: dict[str, Sequence[float]], reason: str
) -> None:
    compression = load(spec, Compression)
    parts = compression.encode(torch.ones(size), rng())
    compression.decode(parts, size)
    for name, values in change.items():
        parts[name] = torch.tensor(values, dtype=parts[name].dtype)
    with pytest.raises(ValueError, match=reason):
        compression.decode(parts, size)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("int8(bucket=0)", "bucket: expected at least 1"),
        ("int8(bucket=16384)", "at most 8192"),
        ("top_k(share=0)", "share: expected"),
        ("top_k(share=1.5)", "share: expected"),
        ("topk", "did you mean 'top_k'"),
    ],
)
def test_arguments_that_make_no_sense_are_named(spec: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        load(spec, Compression)


@pytest.mark.parametrize("spec", ["int8", "int8(bucket=3)", "top_k", "top_k(share=0.5)"])
def test_what_is_held_back_comes_later(spec: str) -> None:
    """The sum of what arrives is that of the changes, less what is held back at the end."""
    start = {"a": torch.zeros(5, 4), "b": torch.zeros(3)}
    held_back: dict[str, Tensor] = {}
    compression = load(spec, Compression)
    arrived = {name: torch.zeros(t.shape, dtype=torch.float64) for name, t in start.items()}
    moved = {name: tensor.clone() for name, tensor in arrived.items()}
    for server_round in range(1, 40):
        change = {
            name: torch.randn(t.shape, generator=rng(server_round)) for name, t in start.items()
        }
        if server_round % 3 == 0:  # not trained in this round: nothing of it is sent
            change["b"] = torch.zeros(3)
        update = ClientUpdate("k", {n: start[n] + change[n] for n in start}, 1)
        update, held_back = compressed(update, start, spec, held_back, server_round)
        for name, tensor in change.items():
            moved[name] += tensor.double()
            parts = {p.partition(":")[0]: t for p, t in update.packed.items() if p.endswith(name)}
            assert bool(parts) == bool(tensor.any())
            if parts:
                size = start[name].numel()
                arrived[name] += compression.decode(parts, size).reshape(tensor.shape).double()
    for name in start:
        torch.testing.assert_close(
            arrived[name] + held_back[name].double(), moved[name], rtol=0, atol=1e-5
        )
        assert bool(held_back[name].any())
        assert float(held_back[name].norm()) < 60 * start[name].numel() ** 0.5


def test_without_feedback_nothing_is_held_back() -> None:
    update = ClientUpdate("k", {"a": torch.randn(9, generator=rng())}, 1)
    for spec in ("fp16", "int8(feedback=False)"):
        assert compressed(update, {"a": torch.zeros(9)}, spec, {}, 0)[1] == {}


def test_descent_with_the_largest_value_alone_needs_what_was_held_back() -> None:
    """Karimireddy et al. 2019: on a square whose one side is 3 the sign of 1 is never sent."""
    target = torch.tensor([1.0, 1.5])
    ends = []
    for with_memory in (True, False):
        x, held_back = torch.zeros(2), {}
        for step in range(60):
            # Noise of the larger side, which alternates and never is smaller than the other.
            gradient = x - target + torch.tensor([0.0, 2.0 * (-1) ** step])
            update = ClientUpdate("k", {"x": x - 0.1 * gradient}, 1)
            update, new = compressed(update, {"x": x}, "top_k(share=0.5)", held_back, step)
            held_back = new if with_memory else {}
            x = x + load("top_k(share=0.5)", Compression).decode(
                {p.partition(":")[0]: t for p, t in update.packed.items()}, 2
            )
        ends.append(abs(float(x[0]) - 1.0))
    assert ends[0] < 0.2
    assert ends[1] > 0.5
