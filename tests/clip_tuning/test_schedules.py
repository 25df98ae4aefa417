"""Schedules of the learning rate: closed forms, torch's own, and what all of them promise."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, StepLR

from fl2ora.clip_tuning.schedules.base import Progress, Schedule, checked_factor
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import available, load

ROUNDS, STEPS = 6, 4


def factors(spec: str, rounds: int = ROUNDS, steps: int = STEPS) -> list[float]:
    """Return the factors of all steps of a run."""
    schedule = load(spec, Schedule)
    return [
        schedule.factor(Progress(server_round, rounds, step, steps))
        for server_round in range(1, rounds + 1)
        for step in range(steps)
    ]


def torch_factors(
    make: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler], count: int
) -> list[float]:
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimiser)
    found = []
    for _ in range(count):
        found.append(float(optimiser.param_groups[0]["lr"]))
        optimiser.step()
        scheduler.step()
    return found


def each_round(values: list[float]) -> list[float]:
    return [value for value in values for _ in range(STEPS)]


def test_the_folder_holds_the_documented_schedules() -> None:
    assert available(Schedule) == ["constant", "cosine", "linear", "step"]


@pytest.mark.parametrize("final", [0.0, 0.25])
def test_cosine_equals_torchs(final: float) -> None:
    total = ROUNDS * STEPS
    expected = torch_factors(lambda o: CosineAnnealingLR(o, total, eta_min=final), total)
    assert factors(f"cosine(per='step', final={final})") == pytest.approx(expected, abs=1e-12)
    expected = torch_factors(lambda o: CosineAnnealingLR(o, ROUNDS, eta_min=final), ROUNDS)
    assert factors(f"cosine(final={final})") == pytest.approx(each_round(expected), abs=1e-12)


def test_cosine_by_hand() -> None:
    quarter = math.sqrt(0.5)
    expected = [1.0, (1 + quarter) / 2, 0.5, (1 - quarter) / 2]
    assert factors("cosine", rounds=4, steps=1) == pytest.approx(expected, abs=1e-12)


def test_linear_equals_torchs() -> None:
    total = ROUNDS * STEPS
    expected = torch_factors(lambda o: LinearLR(o, 1.0, 0.1, total), total)
    assert factors("linear(per='step', final=0.1)") == pytest.approx(expected, abs=1e-12)
    assert factors("linear", rounds=4, steps=1) == [1.0, 0.75, 0.5, 0.25]


def test_step_equals_torchs() -> None:
    expected = torch_factors(lambda o: StepLR(o, 2, gamma=0.3), ROUNDS)
    assert factors("step(every=2, factor=0.3)") == pytest.approx(each_round(expected), abs=1e-12)
    assert factors("step", rounds=21, steps=1) == pytest.approx(
        [1.0] * 10 + [0.1] * 10 + [0.01], abs=1e-12
    )


def test_constant_schedule_factor_is_one() -> None:
    assert factors("constant") == [1.0] * (ROUNDS * STEPS)


def test_warm_up_is_linear_and_decay_starts_after_it() -> None:
    """A quarter of 24 steps: 1/7, ..., 6/7, then a cosine over the remaining 18."""

    def by_hand(step: int) -> float:
        return (step + 1) / 7 if step < 6 else (1 + math.cos(math.pi * (step - 6) / 18)) / 2

    total = ROUNDS * STEPS
    expected = torch_factors(lambda o: LambdaLR(o, by_hand), total)
    assert factors("cosine(per='step', warm_up=0.25)") == pytest.approx(expected, abs=1e-12)
    found = factors("constant(warm_up=0.5)")
    assert found == pytest.approx(each_round([0.25, 0.5, 0.75, 1, 1, 1]), abs=1e-12)


SPECS = st.one_of(
    st.builds(
        "{}(per={!r}, final={!r}, warm_up={!r})".format,
        st.sampled_from(["cosine", "linear"]),
        st.sampled_from(["round", "step"]),
        st.floats(0, 1),
        st.floats(0, 0.99),
    ),
    st.builds(
        "constant(per={!r}, warm_up={!r})".format,
        st.sampled_from(["round", "step"]),
        st.floats(0, 0.99),
    ),
    st.builds("step(every={}, factor={!r})".format, st.integers(1, 9), st.floats(0.01, 1)),
)


@given(SPECS, st.integers(1, 12), st.integers(1, 7))
def test_factors_are_in_range_rise_and_then_fall(spec: str, rounds: int, steps: int) -> None:
    found = factors(spec, rounds, steps)
    assert all(0 < factor <= 1 for factor in found)
    assert found[0] == max(found) or "warm_up" in spec
    top = found.index(max(found))
    rise, fall = found[: top + 1], found[top:]
    assert all(a <= b for a, b in pairwise(rise))
    assert all(a >= b for a, b in pairwise(fall))
    if not load(spec, Schedule).within_round:
        per_round = [found[i : i + steps] for i in range(0, len(found), steps)]
        assert all(len(set(one)) == 1 for one in per_round)


@pytest.mark.parametrize(
    ("spec", "within"),
    [
        ("constant", False), ("constant(per='step')", False), ("cosine", False), ("step", False),
        ("constant(per='step', warm_up=0.1)", True), ("cosine(per='step')", True),
        ("linear(warm_up=0.5)", False), ("linear(per='step')", True),
    ],
)  # fmt: skip
def test_schedule_reports_whether_it_changes_within_a_round(spec: str, within: bool) -> None:
    assert load(spec, Schedule).within_round == within


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("cosine(per='epoch')", "per: expected one of round, step, found 'epoch'"),
        ("cosine(final=1.5)", "final: expected a number >= 0 and <= 1, found 1.5"),
        ("linear(warm_up=1.0)", "warm_up: expected a number >= 0 and < 1, found 1.0"),
        ("step(every=0)", "every: expected a whole number >= 1, found 0"),
        ("step(factor=0.0)", "factor: expected a number > 0 and <= 1, found 0.0"),
        ("cosin", "did you mean 'cosine'"),
    ],
)
def test_arguments_out_of_range_are_refused(spec: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load(spec, Schedule)


@pytest.mark.parametrize("where", [(0, 3), (4, 3), (1, 3, 2, 2), (1, 3, -1, 2)])
def test_a_place_outside_the_run_is_refused(where: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected 1 <= round <= num_rounds"):
        Progress(*where)


class Returning(Schedule):
    """A schedule of somebody's own."""

    def __init__(self, factor: object) -> None:
        self._factor = factor

    def factor(self, at: Progress) -> float:
        return self._factor  # type: ignore[return-value]


@pytest.mark.parametrize("factor", [-1.0, 0.0, 1.0001, 1e9, math.nan, math.inf, None, "x"])
def test_factors_outside_their_range_are_refused(factor: object) -> None:
    words = f"test_schedules:Returning: expected a factor above 0 .* found {factor!r} in round 2"
    with pytest.raises(UserError, match=words):
        checked_factor(Returning(factor), Progress(2, 3))


@pytest.mark.parametrize("factor", [1, 0.25, torch.tensor(0.25), 1e-30])
def test_numbers_of_all_kinds_are_factors(factor: float) -> None:
    assert checked_factor(Returning(factor), Progress(1, 1)) == float(factor)
