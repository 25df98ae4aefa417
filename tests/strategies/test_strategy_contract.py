"""Every strategy keeps the contract; and the check of it notices one that does not."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import fl2ora.strategies
from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.experiment.plugins import available, load
from fl2ora.strategies.averaging.fedavg import FedAvg
from fl2ora.strategies.base import RoundPlan, Strategy
from fl2ora.strategies.client_rule import ClientRule
from fl2ora.strategies.contract import check_strategy
from fl2ora.strategies.updates import ClientUpdate
from planned import begun

# Specs by whether they hand on a single client's adapter in the first round.
GENERAL = {
    "fedavg": True,
    "fedavg(weighting='uniform')": True,
    "fedprox": True,
    "fedprox(mu=0, weighting='uniform')": True,
    "local_only": True,
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
    "dp_fedavg(clip=1e9, noise_multiplier=0)": True,
    "local_dp(clip=1e9, noise_multiplier=0)": True,
    "dp_fedavg(clip_quantile=0.5, noise_multiplier=0, clip=1e9)": True,
    "dp_fedavg(clip_quantile=0.5, noise_multiplier=0, clip=0.1)": False,
    "clipped(norm=1e9)": True,
    "clipped(inner='median', norm=0.1)": False,
    "clipped(inner='feddyn(alpha=0.1)', norm=0.1)": False,
    "clipped(inner='krum', norm=0.1)": False,
    "median": True,
    "trimmed_mean": True,
    "trimmed_mean(cut=0.0)": True,
    "krum": True,
    "krum(malicious=0)": True,
    "multi_krum": True,
    "multi_krum(keep=2, weighting='examples')": True,
    "geometric_median": True,
    "geometric_median(weighting='examples')": True,
    "attacked(clients='2')": True,
    "attacked(inner='feddyn(alpha=0.1)', clients='2', attack='scaling(factor=3)')": False,
    "attacked(inner='scaffold', clients='2', attack='scaling(factor=3)')": True,
}
FILES = sorted({re.split(r"\(", spec)[0] for spec in GENERAL})


def test_every_file_is_covered_here_or_with_the_lora_aware_ones() -> None:
    names = available(Strategy)
    assert len(FILES) == 19
    assert set(FILES) <= set(names)
    lora_aware = Path(__file__).with_name("test_lora_contract.py").read_text(encoding="utf-8")
    assert [name for name in names if name not in FILES and f'"{name}"' not in lora_aware] == []


def alike(spec: str) -> bool:
    return not spec.startswith("attacked")  # names clients


@pytest.mark.parametrize("spec", GENERAL)
def test_every_strategy_keeps_the_contract(spec: str) -> None:
    check_strategy(spec, averages=GENERAL[spec], alike=alike(spec))


@pytest.mark.parametrize("spec", GENERAL)
def test_every_strategy_accepts_an_empty_adapter(spec: str) -> None:
    check_strategy(spec, start={}, alike=alike(spec))


@pytest.mark.parametrize("spec", [spec for spec, averages in GENERAL.items() if not averages])
def test_strategies_that_take_steps_of_their_own_do_not_hand_on_one_client(spec: str) -> None:
    with pytest.raises(AssertionError, match="one client"):
        check_strategy(spec, alike=alike(spec))


def test_the_strategies_of_the_command_line(pytestconfig: pytest.Config) -> None:
    for spec in pytestconfig.getoption("--strategy", default=[]):
        check_strategy(spec, averages=not pytestconfig.getoption("--steps-of-its-own"))


@pytest.mark.parametrize("name", FILES)
def test_each_strategy_file_has_at_most_one_client_rule(name: str) -> None:
    clients = [str(index) for index in range(5)]
    spec = begun(load(name, Strategy), clients, {}).plan(9, {}, clients).rule
    assert not spec or isinstance(load(spec, ClientRule), ClientRule)


def test_no_file_loads_flower_or_ray() -> None:
    """In a process of its own, as everything is loaded in this one."""
    root = Path(fl2ora.strategies.__path__[0])
    files = [path.relative_to(root).with_suffix("") for path in root.rglob("*.py")]
    names = sorted(".".join(("fl2ora.strategies", *file.parts)) for file in files)
    assert "fl2ora.strategies.averaging.fedavg" in names
    code = (
        f"import importlib, sys\nfor name in {names}: importlib.import_module(name)\n"
        "print(sorted({'flwr', 'ray'} & sys.modules.keys()))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert answer.strip() == "[]"


class Renames(FedAvg):
    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        result = super().aggregate(plan, updates)
        return {f"x.{name}": tensor for name, tensor in result.items()}


class ChangesItsInput(FedAvg):
    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        result = super().aggregate(plan, updates)
        for name, tensor in plan.current.items():
            tensor.copy_(result[name])
        return result


class Draws(FedAvg):
    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        result = super().aggregate(plan, updates)
        return {name: tensor + 1e-4 * torch.randn_like(tensor) for name, tensor in result.items()}


class TakesTheFirst(Strategy):
    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        return next(iter(updates)).adapter


class Forgets(FedAvg):
    """Has a memory that it does not save."""

    last: Adapter | None = None

    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        result = super().aggregate(plan, updates)
        before, self.last = self.last or result, result
        return {name: (tensor + before[name]) / 2 for name, tensor in result.items()}


class Sums(Strategy):
    def aggregate(self, plan: RoundPlan, updates: Iterable[ClientUpdate]) -> Adapter:
        ordered = sorted(updates, key=lambda update: update.client)
        return {name: sum(update.adapter[name] for update in ordered) for name in plan.current}  # type: ignore[misc]


class ReportsNothingSound(FedAvg):
    def metrics(self) -> dict[str, float]:
        return {"spread": float("nan")}


class TakesTheRecordsName(FedAvg):
    def metrics(self) -> dict[str, float]:
        return {"round": 1.0}


class StartsSmaller(FedAvg):
    def plan(self, server_round: int, current: Adapter, clients: Sequence[str]) -> RoundPlan:
        plan = super().plan(server_round, current, clients)
        return replace(plan, starts=lambda client: {n: t[:1] for n, t in current.items()})


class StartsAnywhere(FedAvg):
    def plan(self, server_round: int, current: Adapter, clients: Sequence[str]) -> RoundPlan:
        plan = super().plan(server_round, current, clients)
        return replace(
            plan, starts=lambda client: {n: torch.randn_like(t) for n, t in current.items()}
        )


class AsksOthers(FedAvg):
    def plan(self, server_round: int, current: Adapter, clients: Sequence[str]) -> RoundPlan:
        return super().plan(server_round, current, self.run.clients)


@pytest.mark.parametrize(
    ("make", "promise"),
    [
        (Renames, "names, shapes and values: .*missing"),
        (ChangesItsInput, "changed the adapters it was given"),
        (Draws, "determinism: equal rounds"),
        (TakesTheFirst, "order of answers"),
        (Forgets, "state: after loading it"),
        (Sums, "equal clients: 3 give another adapter than 1"),
        (ReportsNothingSound, "metrics: spread: expected a finite number, found nan"),
        (TakesTheRecordsName, "metrics: the name 'round' is the record's own"),
        (StartsSmaller, "plan: start of client '1': .* has shape"),
        (StartsAnywhere, "plan: the start of client '1' differs when asked for again"),
        (AsksOthers, "plan: expected round 2 of clients"),
    ],
)
def test_a_broken_promise_is_named(make: Callable[[], Strategy], promise: str) -> None:
    with pytest.raises(AssertionError, match=promise):
        check_strategy(make)
