"""Flower's strategies in our loop, and ours in Flower's."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp.strategy import FedAvg as FlowersFedAvg
from flwr.supercore.task_identity import TaskIdentity

from fl2ora.clip_tuning.adapter import Adapter, as_adapter
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import load
from fl2ora.experiment.spec import parse_spec
from fl2ora.server_app.flowers_in_ours import FlowersInOurs, load_flowers
from fl2ora.server_app.ours_under_flower import OursUnderFlower
from fl2ora.strategies.averaging.fedavg import FedAvg
from fl2ora.strategies.base import Strategy
from fl2ora.strategies.contract import check_strategy
from fl2ora.strategies.lora.flexlora import FlexLoRA
from fl2ora.strategies.robust.krum import Krum
from fl2ora.strategies.toy_clients import START, toy_clients
from fl2ora.strategies.updates import ClientUpdate
from planned import begun, combine
from quadratics import one_round, scalar, two_clients
from toy_app import toy_grid

FLOWERS = [
    "FedAvg()", "FedAvgM(server_momentum=0.5)", "FedAdam()", "FedYogi(eta=0.01)", "FedAdagrad()",
    "FedMedian()", "FedTrimmedAvg(beta=0.2)", "Krum(num_malicious_nodes=0)",
    "MultiKrum(num_nodes_to_select=2)", "Bulyan(num_malicious_nodes=0)",
    "QFedAvg(client_learning_rate=0.1, train_loss_key='loss')",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _quick_flower(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "flwr")
    # Bulyan and QFedAvg collect garbage after every reply: a second each beside torch.
    monkeypatch.setattr("gc.collect", lambda generation=2: 0)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 0


def flowers(text: str) -> FlowersInOurs:
    return load_flowers(text if ":" in text else f"flwr.serverapp.strategy:{text}")


def end_of(strategy: Any, rounds: int = 3) -> Adapter:
    """Return what Flower's own loop ends with, on five toy clients."""
    clients = toy_clients(START, 5)
    grid = toy_grid(
        clients.__getitem__, 5, lambda index, server_round: (index, server_round) == (1, 2)
    )
    result = strategy.start(grid, ArrayRecord(START), num_rounds=rounds)
    return dict(result.arrays.to_torch_state_dict())


@pytest.mark.parametrize("spec", FLOWERS)
def test_flower_strategy_gives_equal_results_in_our_loop_and_its_own(spec: str) -> None:
    plain: Any = load(f"flwr.serverapp.strategy:{spec}", FlowersFedAvg)
    plain.fraction_evaluate = 0.0  # it wants other records than fl2ora's sums
    expected, found = end_of(plain), end_of(OursUnderFlower(flowers(spec)))
    for name, tensor in expected.items():
        # Some of Flower's go on in float64; our adapter is float32.
        torch.testing.assert_close(found[name], tensor.float(), rtol=1e-5, atol=1e-6)
        assert not torch.equal(tensor, START[name])


@pytest.mark.parametrize(
    ("spec", "averages"),
    [("FedAvg()", True), ("FedMedian()", True), ("FedProx(proximal_mu=0.5)", True)],
)
def test_flowers_keep_our_contract(spec: str, averages: bool) -> None:
    check_strategy(lambda: flowers(spec), averages=averages)


def test_flowers_proximal_term_is_applied_by_our_clients() -> None:
    theirs = begun(flowers("FedProx(proximal_mu=0.5)"), "ab", scalar(2.0))
    assert theirs.plan(1, scalar(2.0), "ab").rule == "fedprox(mu=0.5)"
    ours = load("fedprox(mu=0.5)", Strategy)
    (expected, _), (found, _) = (
        one_round(strategy, 1, scalar(2.0), two_clients()) for strategy in (ours, theirs)
    )
    assert found["x"].item() == pytest.approx(expected["x"].item(), rel=1e-6)
    assert begun(flowers("FedAvg()"), "ab", START).plan(1, START, "ab").rule == ""


def test_flower_strategy_asks_all_clients_by_default() -> None:
    strategy: Any = flowers("FedAvgM(server_momentum=0.5)").strategy
    assert (strategy.fraction_train, strategy.fraction_evaluate) == (1.0, 0.0)
    assert (strategy.min_train_nodes, strategy.min_available_nodes) == (1, 1)
    told: Any = flowers("FedAvg(min_available_nodes=4)").strategy
    assert (told.min_train_nodes, told.min_available_nodes) == (1, 4)
    alone = begun(flowers("FedAvg()"), "a", START)
    assert alone.plan(1, START, "a").clients == ("a",)


class Patient(FlowersFedAvg):
    """Waits for three nodes, whatever its attributes say."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Any
    ) -> Iterable[Message]:
        while len(list(grid.get_node_ids())) < 3:
            pass
        return super().configure_train(server_round, arrays, config, grid)


class Demanding(FlowersFedAvg):
    def __init__(self) -> None:
        super().__init__(min_train_nodes=7)


class Tells(FlowersFedAvg):
    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Any
    ) -> Iterable[Message]:
        config["learning-rate"] = 0.5
        return super().configure_train(server_round, arrays, config, grid)


class Sends(FlowersFedAvg):
    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Any
    ) -> Iterable[Message]:
        grid.push_messages([])
        return []


class Varies(FlowersFedAvg):
    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Any
    ) -> Iterator[Message]:
        for node in grid.get_node_ids():
            settings = ConfigRecord({"proximal-mu": float(node)})
            yield from super().configure_train(server_round, arrays, settings, OneNode(node))


class OneNode:
    def __init__(self, node: int) -> None:
        self.node = node

    def get_node_ids(self) -> list[int]:
        return [self.node]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("FedAvg(min_available_nodes=3)", "min_available_nodes: expected at most 2, .* found 3"),
        (f"{__name__}:Demanding()", "min_train_nodes: expected at most 2, .* found 7"),
        (f"{__name__}:Patient()", "it wants more nodes than the 2 clients chosen"),
        ("FedAvg(fraction_train=0.5)", "asks 1 of the 2 clients .* is the run config's fraction-t"),
        ("FedAvg(fraction_train=0.0)", "asks 0 of the 2 clients"),
        ("FedXgbCyclic()", "asks 1 of the 2 clients"),
        (f"{__name__}:Tells()", "sends clients the settings learning-rate"),
        (f"{__name__}:Sends()", r"uses grid\.push_messages"),
        (f"{__name__}:Varies()", "sends clients different things"),
    ],
)
def test_unsupported_flower_strategies_are_refused_before_training(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        begun(flowers(spec), "ab", START).plan(1, START, "ab")


def test_min_available_nodes_above_clients_is_refused() -> None:
    strategy = begun(flowers("FedAvg(min_available_nodes=3)"), "abc", START)
    with pytest.raises(UserError, match="at most 2, the clients chosen in a round, found 3"):
        strategy.plan(1, START, "ab")


def test_a_wrapper_around_a_strategy_is_refused_with_the_reason() -> None:
    spec = "DifferentialPrivacyServerSideFixedClipping('fedavg', 1.0, 1.0, 2)"
    with pytest.raises(UserError, match="wraps another strategy object, which no spec can hold"):
        flowers(spec)


class Records(FlowersFedAvg):
    """Keeps what it is shown."""

    seen: list[Message]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        self.seen = list(replies)
        return super().aggregate_train(server_round, self.seen)


def test_flower_gets_only_the_adapter_and_common_metrics() -> None:
    strategy = flowers(f"{__name__}:Records()")
    begun(strategy, ["b", "a"], scalar(0.0))
    updates = [
        ClientUpdate("b", scalar(4.0), 30, {"loss": 2.0, "steps": 3.0}, aux=scalar(7.0)),
        ClientUpdate("a", scalar(0.0), 10, {"steps": 1.0, "more": 5.0, "num-examples": 9.0}),
    ]
    result = combine(strategy, scalar(0.0), updates)
    assert result["x"].item() == 3.0
    shown: Any = strategy.strategy
    assert [set(reply.content) for reply in shown.seen] == [{"arrays", "metrics"}] * 2
    assert [dict(reply.content.metric_records["metrics"]) for reply in shown.seen] == [
        {"num-examples": 10, "steps": 1.0},
        {"num-examples": 30, "steps": 3.0},
    ]
    assert strategy.metrics() == {"steps": 2.5}


def test_flower_strategy_errors_become_user_errors() -> None:
    strategy = begun(flowers("QFedAvg(client_learning_rate=0.1)"), "a", scalar(0.0))
    strategy.plan(1, scalar(0.0), "a")
    with pytest.raises(UserError, match=r"'QFedAvg': .*train"):
        combine(strategy, scalar(0.0), [ClientUpdate("a", scalar(1.0), 5)])


def test_a_mistyped_class_or_argument_is_answered() -> None:
    with pytest.raises(UserError, match="did you mean 'FedAvg'"):
        flowers("FedAvgg()")
    with pytest.raises(UserError, match=r"valid arguments: .*proximal_mu"):
        flowers("FedProx(proximal_mi=1.0)")
    assert parse_spec("flwr.serverapp.strategy:FedAvg()").name == "FedAvg"


class Growing:
    """A grid that shows one node more every time it is looked at in a new round."""

    def __init__(self) -> None:
        self.count = 2

    def get_node_ids(self) -> list[int]:
        return list(range(10, 10 + self.count))


def test_the_run_is_that_of_the_first_rounds_nodes() -> None:
    shell, grid = OursUnderFlower(FlexLoRA(ranks="10:1")), Growing()
    start = as_adapter({name: t for name, t in START.items() if "lora" in name})
    asked = []
    for server_round in (1, 2):
        made: Any = shell.configure_train(server_round, ArrayRecord(start), ConfigRecord({}), grid)  # type: ignore[arg-type]
        asked.append([message.metadata.dst_node_id for message in made])
        grid.count += 1
    assert asked == [[10, 11], [10, 11]]
    assert shell.strategy.run.clients == ("10", "11")
    first, second = (m.content.array_records["arrays"].to_torch_state_dict() for m in made)
    a = next(name for name in start if "lora_A" in name)
    assert not first[a][1:].any()
    assert torch.equal(second[a], start[a])


def test_too_few_answers_keep_the_adapter() -> None:
    clients = toy_clients(START, 3)
    grid = toy_grid(clients.__getitem__, 3, lambda index, server_round: index == 0)
    result = OursUnderFlower(Krum(malicious=0)).start(grid, ArrayRecord(START), num_rounds=1)
    assert not result.arrays
    assert not result.train_metrics_clientapp


def test_a_start_in_float64_is_taken_too() -> None:
    clients = toy_clients(START, 2)

    def end(start: Adapter) -> dict[str, torch.Tensor]:
        grid = toy_grid(clients.__getitem__, 2, lambda index, server_round: False)
        result = OursUnderFlower(FedAvg()).start(grid, ArrayRecord(start), num_rounds=1)
        return result.arrays.to_torch_state_dict()

    wide, plain = end({name: t.double() for name, t in START.items()}), end(START)
    assert all(torch.equal(wide[name], plain[name]) for name in START)


class Boastful(FedAvg):
    def metrics(self) -> dict[str, float]:
        return {"loss": -5.0, "pride": 1.0}


def test_a_strategy_does_not_rewrite_what_clients_report_under_flower() -> None:
    clients = toy_clients(START, 2)
    grid = toy_grid(clients.__getitem__, 2, lambda index, server_round: False)
    result = OursUnderFlower(Boastful()).start(grid, ArrayRecord(START), num_rounds=1)
    found = result.train_metrics_clientapp[1]
    assert (found["loss"], found["pride"]) == (1.0, 1.0)


def test_client_metrics_are_averaged_by_examples_under_flower() -> None:
    clients = toy_clients(START, 2)
    grid = toy_grid(clients.__getitem__, 2, lambda index, server_round: False)
    result = OursUnderFlower(FedAvg()).start(grid, ArrayRecord(START), num_rounds=1)
    assert dict(result.train_metrics_clientapp[1]) == {
        "clients": 2, "num-examples": 30, "loss": 1.0,
    }  # fmt: skip
