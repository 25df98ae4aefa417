"""The page about privacy: specs, figures, and who needs only sums, tried on the code."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fl2ora.clip_tuning.adapter import Adapter, as_adapter
from fl2ora.clip_tuning.factors import pair_names, residual_names
from fl2ora.experiment.plugins import available, find, load
from fl2ora.experiment.spec import parse_spec
from fl2ora.strategies.base import Strategy
from fl2ora.strategies.privacy._epsilon import poisson_epsilon
from fl2ora.strategies.privacy._ledger import composed
from fl2ora.strategies.toy_clients import START, play_round, toy_clients
from fl2ora.strategies.updates import ClientUpdate
from planned import begun

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "privacy.md").read_text(encoding="utf-8")
ANSWERS = dict(re.findall(r"^\| `([a-z_]+)` \| (yes|no|as `inner`) \|", PAGE, re.MULTILINE))
SUMS = [name for name, answer in ANSWERS.items() if answer == "yes"]
SINGLE = [name for name, answer in ANSWERS.items() if answer == "no"]


def start_for(name: str) -> Adapter:
    factors = {key: tensor for key, tensor in START.items() if "lora" in key}
    if name not in ("flora", "fedex_lora"):
        return factors
    (module,) = pair_names(factors)
    a, b = residual_names(module)
    return as_adapter({**factors, a: torch.zeros(3, 3), b: torch.zeros(2, 3)})


def outcome(name: str, shift: Adapter, pair: tuple[int, int]) -> Adapter:
    """Aggregate two rounds; in the second, a shift goes from one client's update to another's."""
    start = start_for(name)
    arguments = "(clip=0.5, noise_multiplier=0)" if name == "dp_fedavg" else ""
    clients = [
        replace(c, num_examples=10, steps=1 + i) for i, c in enumerate(toy_clients(start, 5))
    ]
    keys = [client.key for client in clients]
    strategy = begun(load(name + arguments, Strategy), keys, start)
    current = start
    for server_round in (1, 2):
        plan = strategy.plan(server_round, current, keys)
        updates = play_round(plan, clients)
        if server_round == 2:
            for index, sign in zip(pair, (1, -1), strict=True):
                updates[index] = moved(updates[index], shift, sign)
        current = as_adapter(strategy.aggregate(plan, iter(updates)))
    return current


def moved(update: ClientUpdate, shift: Adapter, sign: int) -> ClientUpdate:
    adapter = {name: t + sign * shift.get(name, 0) for name, t in update.adapter.items()}
    return replace(update, adapter=as_adapter(adapter))


def largest_gap(name: str) -> float:
    """Return how far such a shift, which leaves all sums alone, moves the next adapter."""
    generator = torch.Generator().manual_seed(3)
    start = {n: t for n, t in START.items() if "lora" in n}
    shift = {n: torch.randn(t.shape, generator=generator) for n, t in start.items()}
    plain = outcome(name, {}, (0, 1))
    gaps = []
    for pair in ((0, 1), (1, 2), (2, 3)):
        other = outcome(name, shift, pair)
        gaps.append(max(float((other[n] - t).abs().max()) for n, t in plain.items()))
    return max(gaps)


def test_the_table_of_sums_names_every_strategy() -> None:
    assert set(ANSWERS) == set(available(Strategy))
    assert len(SUMS) >= 13
    assert len(SINGLE) >= 13


@pytest.mark.parametrize("name", SUMS)
def test_strategies_of_sums_depend_on_sums_alone(name: str) -> None:
    assert largest_gap(name) < 1e-5


@pytest.mark.parametrize("name", SINGLE)
def test_the_other_strategies_depend_on_single_updates(name: str) -> None:
    assert largest_gap(name) > 1e-3


def test_the_table_has_the_defaults() -> None:
    specs = re.findall(r"^\| `((?:dp_fedavg|local_dp)\(.*?\))` \|", PAGE, re.MULTILINE)
    assert len(specs) == 2
    for spec in map(parse_spec, specs):
        parameters = inspect.signature(find(spec, Strategy)).parameters
        assert spec.kwargs == {name: p.default for name, p in parameters.items()}


def test_the_examples_are_strategies() -> None:
    specs = re.findall(r"--set strategy=(?:'([^\n]*)'|\"([^\n]*)\")\n", PAGE)
    assert len(specs) == 4
    for single, double in specs:
        assert isinstance(load(single or double, Strategy), Strategy)


def test_every_printed_epsilon_is_the_codes() -> None:
    rows = re.findall(
        r"^\| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", PAGE, re.M
    )
    assert len(rows) == 5
    for z, *figures in rows:
        for rounds, figure in zip((1, 10, 30, 100), figures, strict=True):
            assert composed(rounds, float(z), 1e-5) == pytest.approx(float(figure), abs=0.006)
            local = composed(rounds, 2 * float(z), 1e-5, sensitivity=2.0)
            assert local == pytest.approx(float(figure), abs=0.006)
    assert f"{poisson_epsilon(1.0, {(10, 100): 100}, 1e-5):.2f}" == "7.05"
    assert "it is 7.05, against 91.82" in PAGE
