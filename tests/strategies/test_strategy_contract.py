"""Every strategy keeps the contract; and the check of it notices one that does not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.experiment.plugins import available, load
from fl2ora.strategies.averaging.fedavg import FedAvg
from fl2ora.strategies.base import Strategy
from fl2ora.strategies.client_rule import ClientRule
from fl2ora.strategies.contract import check_strategy
from fl2ora.strategies.updates import ClientUpdate

# Specs by whether they hand on a single client's adapter in the first round.
GENERAL = {
    "fedavg": True,
    "fedavg(weighting='uniform')": True,
    "fedprox": True,
    "fedprox(mu=0, weighting='uniform')": True,
    "feddyn": False,
    "feddyn(alpha=0)": True,
    "feddyn(alpha=0.1, mean_examples=25.0, clip=0)": False,
    "feddyn(warmup=1)": True,
    "fednova": True,
    "fednova(momentum=0.5, weighting='uniform')": True,
    "fednova(mu=0.1)": False,
    "scaffold": True,
    "scaffold(step=0.5)": False,
    "fedavgm": True,
    "fedavgm(beta=0.5, eta=0.1)": False,
    "fedadam": False,
    "fedyogi": False,
    "fedadagrad": False,
    "dp_fedavg(clip=1e30, noise_multiplier=0)": True,
    "local_dp(clip=1e30, noise_multiplier=0)": True,
    "median": True,
    "trimmed_mean": True,
    "krum": True,
    "krum(malicious=0)": True,
    "multi_krum": True,
    "multi_krum(keep=2, weighting='uniform')": True,
    "geometric_median": True,
    "geometric_median(weighting='uniform')": True,
    "attacked(clients='2')": True,
    "attacked(inner='feddyn(alpha=0.1)', clients='2', attack='scaling(factor=3)')": False,
    "attacked(inner='scaffold', clients='2', attack='scaling(factor=3)')": True,
}
FILES = sorted({re.split(r"\(", spec)[0] for spec in GENERAL})


def test_every_file_is_covered_here_or_with_the_lora_aware_ones() -> None:
    names = available(Strategy)
    assert len(FILES) == 17
    assert set(FILES) <= set(names)
    lora_aware = Path(__file__).with_name("test_lora_contract.py").read_text(encoding="utf-8")
    assert [name for name in names if name not in FILES and f'"{name}"' not in lora_aware] == []


@pytest.mark.parametrize("spec", GENERAL)
def test_it_keeps_the_contract(spec: str) -> None:
    check_strategy(spec, averages=GENERAL[spec])


@pytest.mark.parametrize("spec", GENERAL)
def test_it_keeps_the_contract_with_nothing_tuned(spec: str) -> None:
    check_strategy(spec, start={})


@pytest.mark.parametrize("spec", [spec for spec, averages in GENERAL.items() if not averages])
def test_those_that_take_steps_of_their_own_are_told_apart(spec: str) -> None:
    with pytest.raises(AssertionError, match="one client"):
        check_strategy(spec)


def test_the_strategies_of_the_command_line(pytestconfig: pytest.Config) -> None:
    for spec in pytestconfig.getoption("--strategy", default=[]):
        check_strategy(spec, averages=not pytestconfig.getoption("--steps-of-its-own"))


@pytest.mark.parametrize("name", FILES)
def test_a_file_has_at_most_one_client_half_and_it_loads(name: str) -> None:
    spec = load(name, Strategy).client_rule()
    assert not spec or isinstance(load(spec, ClientRule), ClientRule)


class Renames(FedAvg):
    def aggregate(
        self, server_round: int, current: Adapter, updates: Iterable[ClientUpdate]
    ) -> Adapter:
        result = super().aggregate(server_round, current, updates)
        return {f"x.{name}": tensor for name, tensor in result.items()}


class ChangesItsInput(FedAvg):
    def aggregate(
        self, server_round: int, current: Adapter, updates: Iterable[ClientUpdate]
    ) -> Adapter:
        result = super().aggregate(server_round, current, updates)
        for name, tensor in current.items():
            tensor.copy_(result[name])
        return result


class Draws(FedAvg):
    def aggregate(
        self, server_round: int, current: Adapter, updates: Iterable[ClientUpdate]
    ) -> Adapter:
        result = super().aggregate(server_round, current, updates)
        return {name: tensor + 1e-4 * torch.randn_like(tensor) for name, tensor in result.items()}


class TakesTheFirst(Strategy):
    def aggregate(
        self, server_round: int, current: Adapter, updates: Iterable[ClientUpdate]
    ) -> Adapter:
        return next(iter(updates)).adapter


class Forgets(FedAvg):
    """Has a memory that it does not save."""

    last: Adapter | None = None

    def aggregate(
        self, server_round: int, current: Adapter, updates: Iterable[ClientUpdate]
    ) -> Adapter:
        result = super().aggregate(server_round, current, updates)
        before, self.last = self.last or result, result
        return {name: (tensor + before[name]) / 2 for name, tensor in result.items()}


class Sums(Strategy):
    def aggregate(
        self, server_round: int, current: Adapter, updates: Iterable[ClientUpdate]
    ) -> Adapter:
        ordered = sorted(updates, key=lambda update: update.client)
        return {name: sum(update.adapter[name] for update in ordered) for name in current}  # type: ignore[misc]


@pytest.mark.parametrize(
    ("make", "promise"),
    [
        (Renames, "names, shapes and values: .*missing"),
        (ChangesItsInput, "changed the adapters it was given"),
        (Draws, "determinism: equal rounds"),
        (TakesTheFirst, "order of answers"),
        (Forgets, "state: after loading it"),
        (Sums, "equal clients: three give another"),
    ],
)
def test_a_broken_promise_is_named(make: Callable[[], Strategy], promise: str) -> None:
    with pytest.raises(AssertionError, match=promise):
        check_strategy(make)
