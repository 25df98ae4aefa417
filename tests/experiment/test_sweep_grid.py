"""A sweep's file: which cells it stands for, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl2ora.experiment.errors import UserError
from fl2ora.experiment.sweep_file import read_sweep

METHODS = ["lora(rank=2)", "layer_norm", "bitfit"]
CALIBRATION = [
    {"name": "none"},
    {"name": "DCA", "loss": "cross_entropy + 2*dca"},
    {"name": "after", "calibrator": "temperature"},
]


def sweep(**tables: Any) -> dict[str, Any]:
    return {"axes": {"method": METHODS, "calibration": CALIBRATION}, **tables}


def test_cells_are_every_combination_with_every_seed_the_seeds_fastest() -> None:
    cells = read_sweep(sweep(seeds=[3, 1])).cells()
    assert len(cells) == 3 * 3 * 2
    assert [(c.labels["method"], c.labels["calibration"], c.seed) for c in cells[:4]] == [
        ("lora(rank=2)", "none", 3), ("lora(rank=2)", "none", 1),
        ("lora(rank=2)", "DCA", 3), ("lora(rank=2)", "DCA", 1),
    ]  # fmt: skip
    assert cells[2].settings == {"method": "lora(rank=2)", "loss": "cross_entropy + 2*dca"}
    assert str(cells[2]) == "method=lora(rank=2), calibration=DCA, seed 3"


def test_conditions_hold_for_names_with_any_arguments_and_win_over_what_is_fixed() -> None:
    when = [{"method": ["lora", "bitfit"], "calibration": "DCA", "set": {"learning-rate": 0.5}}]
    cells = read_sweep(sweep(fixed={"learning-rate": 0.1}, when=when)).cells()
    rates = {tuple(c.labels.values()): c.settings["learning-rate"] for c in cells}
    assert [labels for labels, rate in rates.items() if rate == 0.5] == [
        ("lora(rank=2)", "DCA"), ("bitfit", "DCA"),
    ]  # fmt: skip
    assert set(rates.values()) == {0.1, 0.5}


def test_skipped_combinations_are_left_out() -> None:
    skip = [{"method": "lora", "calibration": ["none", "DCA"]}, {"calibration": "after"}]
    labels = [tuple(cell.labels.values()) for cell in read_sweep(sweep(skip=skip)).cells()]
    assert labels == [
        (method, name) for method in ("layer_norm", "bitfit") for name in ("none", "DCA")
    ]


def test_groups_of_select_are_told_apart_by_its_axes_alone() -> None:
    select = {"values": [0.1, 0.2], "each": ["method"]}
    skip = [{"method": "bitfit", "calibration": "none"}]
    found = read_sweep(sweep(select=select, seeds=[7, 8], skip=skip))
    groups = found.groups()
    assert [labels for labels, _ in groups] == [{"method": method} for method in METHODS]
    assert [cell.labels["calibration"] for _, cell in groups] == ["none", "none", "DCA"]
    assert found.select is not None
    assert (found.select.key, found.select.metric) == ("learning-rate", "nll")
    assert found.select.seeds == (7,)


@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    seeds=st.integers(1, 3),
    skip=st.data(),
)
def test_the_number_of_cells_is_what_is_left_of_the_product(
    sizes: list[int], seeds: int, skip: st.DataObject
) -> None:
    keys = ["batch-size", "num-rounds", "local-epochs"]
    axes = {key: list(range(1, size + 1)) for key, size in zip(keys, sizes, strict=False)}
    first = skip.draw(st.sets(st.sampled_from(axes["batch-size"]), max_size=sizes[0] - 1))
    conditions = [{"batch-size": value} for value in sorted(first)]
    cells = read_sweep({"axes": axes, "seeds": seeds, "skip": conditions}).cells()
    left = (sizes[0] - len(first)) * math.prod(sizes[1:]) * seeds
    assert len(cells) == left
    assert len({str(cell) for cell in cells}) == left


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"axes": {}}, "axes: expected at least one list of values, found none"),
        ({"axes": 3}, "axes: expected a table, found 3"),
        ({"axes": {"method": []}}, "axes: method: expected a list of values or tables, found []"),
        ({"axes": {"method": "lora"}}, "axes: method: expected a list"),
        ({"axes": {"metod": ["lora"]}}, "axes: metod: unknown key 'metod'; did you mean 'method'"),
        ({"axes": {"method": ["lora", "lora"]}}, "axes: method: 'lora' stands there twice"),
        ({"axes": {"method": [["lora"]]}}, "axes: method: method: expected one value"),
        ({"axes": {"a": [{"loss": "x"}]}}, "axes: a: expected a 'name' in every table"),
        ({"axes": {"a": [{"name": "x\n"}]}}, "axes: a: expected at most 200 printable signs"),
        ({"axes": {"a": [{"name": "  "}]}}, "axes: a: expected at most 200 printable signs"),
        (
            {"axes": {"a\x1b[31m": [{"name": "x"}]}},
            "axes: expected names of 1 to 200",
        ),
        ({"axes": {"": [{"name": "x"}]}}, "axes: expected names of 1 to 200"),
        (
            {"axes": {"method": ["lora"]}, "skip": [{"method": []}]},
            "skip, number 1: method: expected one of lora, found []",
        ),
        ({"axes": {"seed": [1]}}, "'seed' cannot be names of axes"),
        ({"fixed": {"seed": 1}}, "fixed: seed is set for every cell; use the list 'seeds'"),
        ({"fixed": {"run-name": "x"}}, "use 'fl2ora sweep --output'"),
        ({"fixed": {"method": "lora"}}, "fixed: method is set by axis 'method' too"),
        ({"num-rounds": 3}, "'num-rounds': expected one of seeds, fixed"),
        ({"num-rounds": 3}, "is it meant for [fixed]?"),
        ({"fixd": {}}, "did you mean 'fixed'?"),
        ({"seeds": []}, "seeds: expected a list of different whole numbers, or their number"),
        ({"seeds": [1, 1]}, "seeds: expected a list of different"),
        ({"seeds": [-1]}, "seeds: expected a list of different"),
        ({"seeds": True}, "found True"),
        ({"seeds": 0}, "seeds: expected"),
        ({"when": {"method": "lora"}}, "when: expected tables [[when]]"),
        ({"when": [{"method": "lora"}]}, "when, number 1: expected an axis and 'set'"),
        ({"when": [{"set": {"seed": 1}}]}, "when, number 1: set: seed is set for every cell"),
        ({"skip": [{}]}, "skip, number 1: expected an axis"),
        ({"skip": [{"loss": "dca"}]}, "expected an axis (calibration, method), found 'loss'"),
        ({"skip": [{"method": "lroa"}]}, "found 'lroa'"),
        ({"skip": [{"method": ["lora", "layer_norm", "bitfit"]}]}, "found all of them skipped"),
        ({"seeds": 20_000}, "axes: expected at most 20,000 cells, found 180,000"),
        ({"when": [{"calibration": "DCA", "set": {"loss": "focal"}}]}, "contradicts loss ="),
        ({"select": {}}, "select: expected either values or factors"),
        ({"select": {"values": [1], "factors": [1]}}, "select: expected either values or factors"),
        ({"select": {"values": [0.1]}}, "at least two different candidates"),
        ({"select": {"values": [0.1, [0.1]]}}, "at least two different candidates"),
        ({"select": {"factors": [1, -1]}}, "select: factors: expected numbers above 0"),
        ({"select": {"factors": [1, 2], "key": "batch-size"}}, "factors are of learning rates"),
        ({"select": {"values": [1, 2], "key": "seed"}}, "select: key: expected a key of a run"),
        ({"select": {"values": ["a", "b"], "key": "loss"}}, "loss is chosen, and must not be set"),
        ({"select": {"values": [1, 2], "each": ["loss"]}}, "select: each: expected a list of axes"),
        ({"select": {"values": [1, 2], "each": [["method"]]}}, "select: each: expected a list"),
        ({"select": {"values": [1, 2], "metric": 3}}, "select: metric: expected a name, found 3"),
        ({"select": {"value": [1, 2]}}, "select: unknown 'value'; did you mean 'values'?"),
    ],
)
def test_a_mistake_is_told_with_its_place(tables: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_sweep(sweep(**tables)).cells()
    assert message in str(caught.value)
