"""Counts beyond sense are refused before anything is allocated or waited for."""

from __future__ import annotations

import inspect

import pytest

from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import available, find, load
from fl2ora.experiment.spec import parse_spec
from fl2ora.strategies.base import Strategy

COUNTS = [
    (name, parameter.name)
    for name in available(Strategy)
    for parameter in inspect.signature(find(parse_spec(name), Strategy)).parameters.values()
    if isinstance(parameter.default, int)
    and not isinstance(parameter.default, bool)
    and parameter.name != "seed"
]


def test_there_are_counts() -> None:
    assert ("flora_na", "steps") in COUNTS
    assert len(COUNTS) >= 6


@pytest.mark.parametrize(("name", "argument"), COUNTS)
def test_a_count_of_two_milliards_is_refused(name: str, argument: str) -> None:
    with pytest.raises(UserError, match=f"{argument}: expected a whole number <= "):
        load(f"{name}({argument}=2000000000)", Strategy)


@pytest.mark.parametrize("ranks", ["9" * 3000, "a:5000", "4097"])
def test_a_rank_beyond_sense_is_refused(ranks: str) -> None:
    with pytest.raises(UserError, match="ranks: expected ranks of at least 1 and at most 4096"):
        load(f"flexlora(ranks={ranks!r})", Strategy)
