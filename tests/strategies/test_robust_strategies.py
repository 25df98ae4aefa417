"""Median, trimmed mean, Krum, Multi-Krum and geometric median."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import planned
from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import load
from fl2ora.strategies.base import Strategy
from fl2ora.strategies.robust._distances import gram, squared_distances
from fl2ora.strategies.robust.krum import scores
from fl2ora.strategies.updates import ClientUpdate
from planned import begun
from quadratics import scalar

FIVE = [1.0, 1.2, 0.9, 1.1, 9.0]
ORIGIN = {"x": torch.zeros(2)}


def updates(*values: float) -> list[ClientUpdate]:
    return [
        ClientUpdate(f"{index}", scalar(value), index + 1) for index, value in enumerate(values)
    ]


def points(*pairs: tuple[float, float], examples: tuple[int, ...] = ()) -> list[ClientUpdate]:
    sizes = examples or (1,) * len(pairs)
    return [
        ClientUpdate(f"{index}", {"x": torch.tensor(pair)}, size)
        for index, (pair, size) in enumerate(zip(pairs, sizes, strict=True))
    ]


def combine(spec: str, sent: list[ClientUpdate], current: Adapter | None = None) -> Adapter:
    start = scalar(0.0) if current is None else current
    return planned.combine(load(spec, Strategy), start, sent)


def combined(spec: str, *values: float) -> float:
    return combine(spec, updates(*values))["x"].item()


@pytest.mark.parametrize(
    ("spec", "values", "expected"),
    [
        ("median", FIVE, 1.1),
        ("median", [1.0, 4.0, 2.0, 100.0], 3.0),
        ("median", [1.0, 2.0], 1.5),
        ("median", [7.0], 7.0),
        ("trimmed_mean(cut=0.2)", FIVE, 1.1),
        ("trimmed_mean(cut=0.0)", FIVE, 2.64),
        ("trimmed_mean(cut=0.4)", FIVE, 1.1),
        ("trimmed_mean(cut=0.2)", [1.0, 2.0, 9.0], 4.0),  # floor(.6) = 0
        ("trimmed_mean(cut=0.3)", [0, 1, 2, 3, 4, 5, 6, 7, 8, 90.0], 4.5),  # 3 a side
        ("krum(malicious=1)", FIVE, 1.0),
        ("krum", [5.0], 5.0),
        ("krum(malicious=3)", [3.0, 4.0], 3.0),
        ("multi_krum(malicious=1, keep=1)", FIVE, 1.0),
        # Scores .02, .05, .05, .02, 123.25: 1 and 1.1 first, with 1 and 4 examples.
        ("multi_krum(malicious=1, keep=2, weighting='examples')", FIVE, 1.08),
        ("multi_krum(malicious=1, keep=2)", FIVE, 1.05),
        ("multi_krum(malicious=1, weighting='examples')", FIVE, (1 + 2.4 + 2.7 + 4.4) / 10),
        ("multi_krum(malicious=0, weighting='examples')", FIVE, (1 + 2.4 + 2.7 + 4.4 + 45) / 15),
        ("geometric_median", FIVE, 1.1),
        (
            "geometric_median(weighting='examples')",
            [1.0, 2.0, 9.0, 10.0],
            9.0,
        ),  # holds the fifth and sixth of ten
        ("geometric_median", [1.0, 2.0], 1.5),
        ("geometric_median", [7.0], 7.0),
    ],
)
def test_numbers_on_a_line(spec: str, values: list[float], expected: float) -> None:
    assert combined(spec, *values) == pytest.approx(expected, rel=1e-6)


def test_trimming_counts_exactly_where_floating_point_does_not() -> None:
    values = [float(i) for i in range(100)]
    values[-29:] = [1e6] * 29
    assert 0.29 * 100 < 29
    assert combined("trimmed_mean(cut=0.29)", *values) == pytest.approx(np.mean(values[29:71]))


def test_krums_scores() -> None:
    found = scores(updates(*FIVE), scalar(0.0), malicious=1)
    assert found == pytest.approx([0.02, 0.05, 0.05, 0.02, 123.25], rel=1e-5)


@pytest.mark.parametrize("malicious", [0, 1, 3, 7, 20])
def test_krums_scores_beside_a_loop(malicious: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(9, 5)).astype(np.float32)
    sent = [
        ClientUpdate(str(k), {"a": torch.tensor(row[:2]), "b": torch.tensor(row[2:])}, 1)
        for k, row in enumerate(values)
    ]
    expected = []
    for k, row in enumerate(values.astype(float)):
        others = sorted(np.sum((row - other) ** 2) for j, other in enumerate(values) if j != k)
        expected.append(sum(others[: max(1, 9 - malicious - 2)]))
    centre = {"a": torch.zeros(2), "b": torch.ones(3)}
    assert scores(sent, centre, malicious) == pytest.approx(expected)


def test_krums_ties_go_to_the_first_client_key_whoever_answers_first() -> None:
    # 1 and 1.1 tie up to the rounding of float32, so do all equal updates.
    sent = updates(*FIVE)
    for ordered in (sent, sent[::-1], sent[2:] + sent[:2]):
        assert combine("krum(malicious=1)", ordered)["x"].item() == 1.0
    # 1.1 scores 2e-6 more than 1 now, which is rounding: its key decides.
    near = zip("zcdbe", [1.0, 1.2000002, 0.9, 1.1, 9.0], strict=True)
    swapped = [ClientUpdate(key, scalar(value), 1) for key, value in near]
    assert combine("krum(malicious=1)", swapped)["x"].item() == pytest.approx(1.1)


def test_krum_hands_on_the_chosen_update_bit_for_bit() -> None:
    torch.manual_seed(0)
    honest = torch.randn(4, 50)
    sent = [ClientUpdate(str(k), {"x": row}, 1) for k, row in enumerate(honest)]
    sent.append(ClientUpdate("4", {"x": 1e6 * torch.ones(50)}, 1))
    result = combine("krum", sent, {"x": torch.zeros(50)})["x"]
    assert sum(torch.equal(result, row) for row in honest) == 1


def test_distances_keep_their_digits_beside_a_huge_update() -> None:
    sent = updates(1.0, 1.001, 1.003, 1.007, 1e9)
    expected = [0.001**2 + 0.003**2, 0.001**2 + 0.002**2]
    assert scores(sent, scalar(1.0), malicious=1)[:2] == pytest.approx(expected, rel=1e-3)


def test_distances_keep_their_digits_far_from_zero() -> None:
    # Float32 numbers near 1e4, 2^-10 apart.
    values = [1e4 + step / 1024 for step in (0, 10, 30, 70, 1000)]
    expected = [(10**2 + 30**2) / 1024**2, (10**2 + 20**2) / 1024**2]
    assert scores(updates(*values), scalar(1e4), malicious=1)[:2] == pytest.approx(expected)


def test_equal_updates_are_at_distance_zero_exactly() -> None:
    torch.manual_seed(0)
    row = torch.randn(3000)
    sent = [ClientUpdate(str(k), {"x": row.clone()}, 1) for k in range(5)]
    sent.append(ClientUpdate("5", {"x": torch.randn(3000)}, 1))
    found = squared_distances(gram(sent, {"x": torch.zeros(3000)}))
    assert torch.equal(found[:5, :5], torch.zeros(5, 5, dtype=torch.float64))
    assert bool((found[5, :5] > 0).all())
    for rounded in (1 + 4e-16, 1 - 4e-16):  # where sums end in another last digit
        products = torch.tensor([[1.0, rounded], [rounded, 1.0]], dtype=torch.float64)
        assert squared_distances(products).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_geometric_median_of_a_convex_quadrilateral_is_where_the_diagonals_cross() -> None:
    # (0, 0)-(4, 4) and (3, 0)-(0, 6): y = x and y = 6 - 2 x cross at (2, 2).
    sent = points((0.0, 0.0), (3.0, 0.0), (4.0, 4.0), (0.0, 6.0))
    assert combine("geometric_median", sent, ORIGIN)["x"].tolist() == pytest.approx([2, 2])


def test_geometric_median_of_a_triangle_is_its_fermat_point() -> None:
    equilateral = points((0.0, 0.0), (1.0, 0.0), (0.5, math.sqrt(3) / 2))
    centre = combine("geometric_median", equilateral, ORIGIN)["x"].tolist()
    assert centre == pytest.approx([0.5, math.sqrt(3) / 6])
    # Of an angle of 120 degrees and more it is the vertex, to the last bit; just above, iterations
    # creep.
    for degrees in (120.1, 170):
        turn = math.radians(degrees)
        obtuse = points((0.1, 0.2), (1.1, 0.2), (0.1 + math.cos(turn), 0.2 + math.sin(turn)))
        found = combine("geometric_median", obtuse, ORIGIN)["x"]
        assert torch.equal(found, torch.tensor([0.1, 0.2]))


def test_geometric_median_with_half_of_the_weight_on_one_client() -> None:
    sent = points((1.0, 0.0), (0.0, 1.0), (5.0, 5.0), examples=(1, 1, 3))
    assert combine("geometric_median(weighting='examples')", sent, ORIGIN)["x"].tolist() == [
        5.0,
        5.0,
    ]


def test_geometric_median_beats_every_neighbour() -> None:
    rng = np.random.default_rng(1)
    values, sizes = rng.normal(size=(7, 3)), rng.integers(1, 9, 7)
    sent = [
        ClientUpdate(str(k), {"x": torch.tensor(row, dtype=torch.float32)}, int(size))
        for k, (row, size) in enumerate(zip(values, sizes, strict=True))
    ]
    best = (
        combine("geometric_median(weighting='examples')", sent, {"x": torch.zeros(3)})["x"]
        .numpy()
        .astype(float)
    )

    def total(point: np.ndarray) -> float:
        return float(sizes @ np.linalg.norm(values - point, axis=1))

    for _ in range(50):
        assert total(best) <= total(best + 1e-3 * rng.normal(size=3))


@pytest.mark.parametrize(
    ("spec", "holds"),
    [
        ("fedavg", False),
        ("median", True),
        ("trimmed_mean(cut=0.25)", True),
        ("krum(malicious=2)", True),
        ("multi_krum(malicious=2)", True),
        ("geometric_median", True),
    ],
)
def test_two_of_nine_clients_cannot_move_a_robust_strategy_far(spec: str, holds: bool) -> None:
    torch.manual_seed(3)
    honest = 1 + 0.1 * torch.randn(7, 20)
    sent = [ClientUpdate(str(k), {"x": row}, 10) for k, row in enumerate(honest)]
    sent += [ClientUpdate(f"bad-{k}", {"x": torch.full((20,), -1e5)}, 10) for k in range(2)]
    result = combine(spec, sent, {"x": torch.zeros(20)})["x"]
    assert bool((result - 1).abs().max() < 0.5) is holds


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("trimmed_mean(cut=0.5)", "cut: expected 0 <= cut < 0.5"),
        ("trimmed_mean(cut=-0.1)", "cut: expected"),
        ("krum(malicious=-1)", "malicious: expected a whole number >= 0"),
        ("multi_krum(malicious=-1)", "malicious: expected a whole number >= 0"),
        ("multi_krum(keep=-1)", "keep: expected a whole number >= 0"),
        ("geometric_median(iterations=0)", "iterations: expected a whole number >= 1"),
        ("geometric_median(tolerance=1.0)", "tolerance: expected"),
    ],
)
def test_impossible_arguments_are_refused(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(spec, Strategy)


@pytest.mark.parametrize(
    ("spec", "least"),
    [
        ("krum(malicious=0)", 3),
        ("krum", 5),
        ("multi_krum(malicious=3)", 9),
        ("trimmed_mean(cut=0.0)", 1),
        ("trimmed_mean", 5),
        ("trimmed_mean(cut=0.3)", 4),
        ("trimmed_mean(cut=0.29)", 4),
        ("trimmed_mean(cut=0.1)", 10),
        ("median", 1),
        ("attacked(inner='krum')", 5),
        ("local_dp(inner='trimmed_mean')", 5),
    ],
)
def test_with_fewer_clients_than_it_needs_nothing_is_begun_or_asked(spec: str, least: int) -> None:
    strategy, start = load(spec, Strategy), scalar(0.0)
    clients = [str(index) for index in range(least)]
    assert strategy.least_updates == least
    assert begun(strategy, clients, start).plan(1, start, clients).clients == tuple(clients)
    if least > 1:
        with pytest.raises(
            UserError, match=f"at least {least} clients, found {least - 1} asked in"
        ):
            strategy.plan(1, start, clients[1:])
        with pytest.raises(
            UserError, match=f"at least {least} clients, found a run of {least - 1}"
        ):
            begun(load(spec, Strategy), clients[1:], start)


@pytest.mark.parametrize("cut", [0.01, 0.07, 0.1, 0.2, 0.25, 0.29, 0.3, 1 / 3, 0.4, 0.49])
def test_the_fewest_updates_of_a_trimmed_mean_are_the_first_that_are_trimmed(cut: float) -> None:
    strategy = load(f"trimmed_mean(cut={cut!r})", Strategy)
    for count, trims in ((strategy.least_updates - 1, False), (strategy.least_updates, True)):
        values = [0.0] * (count - 1) + [1e6]
        result = planned.combine(strategy, scalar(0.0), updates(*values))["x"].item()
        assert (result == 0.0) is trims


@pytest.mark.parametrize(
    "spec",
    ["median", "geometric_median", "trimmed_mean", "krum", "multi_krum", "clipped(norm=0.5)"],
)
def test_one_of_six_that_lies_about_its_size_takes_no_robust_strategy_along(spec: str) -> None:
    generator = torch.Generator().manual_seed(2)
    honest = 1 + 0.05 * torch.randn(5, 20, generator=generator)
    liar = ClientUpdate("0", {"x": torch.full((20,), -100.0)}, 10**9)
    sent = [liar, *(ClientUpdate(str(k), {"x": row}, 100) for k, row in enumerate(honest, 1))]
    start = {"x": torch.full((20,), 0.9)}
    assert (combine("fedavg", sent, start)["x"] + 100).abs().max() < 0.01
    if spec.startswith("clipped"):  # it bounds how far, not whose
        spec = "clipped(inner='fedavg(weighting=\"uniform\")', norm=0.5)"
    assert (combine(spec, sent, start)["x"] - 1).abs().max() < 0.2
