"""local_dp: what leaves a node is clipped and noised, and inner client halves must fit."""

from __future__ import annotations

import inspect
import math
from pathlib import Path

import dp_accounting
import pytest
import torch

from fl2ora.clip_tuning.adapter import Adapter, AdapterError, as_adapter
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import load
from fl2ora.reporting.events import read_lines
from fl2ora.strategies._wrapping import Wrapping
from fl2ora.strategies.averaging.fedavg import FedAvg
from fl2ora.strategies.averaging.fedprox import FedProx
from fl2ora.strategies.base import Strategy
from fl2ora.strategies.client_rule import ClientRule, LocalStart
from fl2ora.strategies.contract import check_strategy
from fl2ora.strategies.privacy._noise import change_norm
from fl2ora.strategies.privacy.local_dp import LocalDP, LocalDPRule
from fl2ora.strategies.toy_clients import START, ToyClient, play_round, toy_clients
from fl2ora.strategies.updates import ClientUpdate
from planned import begun
from quadratics import scalar
from runs import events, run_small

FACTORS = {name: tensor for name, tensor in START.items() if "lora" in name}
QUIET = "noise_multiplier=0, clip=1e9"


@pytest.mark.parametrize(
    ("inner", "start"),
    [("fedavg", START), ("fedprox", START), ("median", START), ("ffa_lora", FACTORS)],
)
def test_local_dp_without_noise_keeps_the_strategy_contract(
    inner: str, start: dict[str, torch.Tensor]
) -> None:
    hands_on = inner != "ffa_lora"  # its mean keeps A
    check_strategy(f"local_dp(inner={inner!r}, {QUIET})", averages=hands_on, start=start)


def answers(
    strategy: Strategy, start: Adapter, clients: list[ToyClient], server_round: int = 1
) -> list[ClientUpdate]:
    """Return what clients send in a round of a run in which they are all there are."""
    keys = [client.key for client in clients]
    return play_round(begun(strategy, keys, start).plan(server_round, start, keys), clients)


def test_local_dp_with_seeded_noise_keeps_the_contract_except_equal_clients() -> None:
    # Equal clients have noise of their own, so that three are not one.
    with pytest.raises(AssertionError, match="equal clients"):
        check_strategy("local_dp(inner='fedadam', seed=1)", averages=False)
    check_strategy("local_dp(inner='fedadam', seed=1)", averages=False, alike=False)
    with pytest.raises(AssertionError, match="determinism: equal rounds"):
        check_strategy("local_dp", averages=False)


def test_local_dp_without_noise_and_clipping_changes_no_update() -> None:
    for strategy, inner in ((FedAvg(), "fedavg"), (FedProx(mu=0.5), "fedprox(mu=0.5)")):
        wrapped = LocalDP(inner=inner, clip=1e9, noise_multiplier=0)
        expected = answers(strategy, START, toy_clients(START))
        found = answers(wrapped, START, toy_clients(START))
        for one, other in zip(expected, found, strict=True):
            assert all(torch.equal(one.adapter[name], other.adapter[name]) for name in START)


def test_every_change_is_clipped_on_the_node() -> None:
    updates = answers(LocalDP(clip=0.01, noise_multiplier=0), START, toy_clients(START))
    norms = [change_norm(update.adapter, START) for update in updates]
    assert norms == pytest.approx([0.01] * 4, rel=1e-4)  # float32 is what is sent


@pytest.mark.parametrize("inner", ["fedavg", "fedavg(weighting='examples')", "fedprox", "fedadam"])
def test_clients_count_the_same_whatever_the_inner_weighting(inner: str) -> None:
    clients = toy_clients(START)  # of 10, 20, 30 and 40 examples
    strategy = begun(LocalDP(inner=inner, clip=1e9, noise_multiplier=0), "0123", START)
    plan = strategy.plan(1, START, "0123")
    updates = play_round(plan, clients)
    found = strategy.aggregate(plan, iter(updates))
    arguments = inner.removesuffix(")").replace("'examples'", "'uniform'")
    uniform = arguments if "(" in arguments else f"{arguments}(weighting='uniform'"
    plain = begun(load(f"{uniform})", Strategy), "0123", START)
    expected = plain.aggregate(plain.plan(1, START, "0123"), iter(updates))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_the_mean_carries_the_noise_that_the_page_says_whatever_the_sizes() -> None:
    # One client of 1,000 examples and three of 1: by size the mean would carry nearly all of z C.
    n, clip, z = 200_000, 0.5, 3.0
    start = {"x": torch.zeros(n)}
    sizes = {"a": 1000, "b": 1, "c": 1, "d": 1}
    clients = [ToyClient(k, {"x": torch.zeros(n)}, num_examples=m) for k, m in sizes.items()]
    strategy = begun(LocalDP(clip=clip, noise_multiplier=z, seed=3), "abcd", start)
    plan = strategy.plan(1, start, "abcd")
    mean = strategy.aggregate(plan, play_round(plan, clients))["x"].double()
    assert float(mean.std()) == pytest.approx(z * clip / math.sqrt(4), rel=0.01)


@pytest.mark.parametrize("seed", [5, None])
def test_the_noise_on_a_node_has_the_stated_spread(seed: int | None) -> None:
    n, clip, z = 400_000, 0.5, 3.0
    start = {"x": torch.zeros(n)}
    clients = [ToyClient(key, {"x": torch.zeros(n)}, steps=1) for key in "ab"]
    strategy = LocalDP(clip=clip, noise_multiplier=z, seed=seed)
    sent = [u.adapter["x"].double() for u in answers(strategy, start, clients)]
    for noise in sent:
        assert float(noise.var()) == pytest.approx((z * clip) ** 2, rel=5 * math.sqrt(2 / n))
        assert abs(float(noise.mean())) < 5 * z * clip / math.sqrt(n)
    overlap = float((sent[0] * sent[1]).mean()) / (z * clip) ** 2
    assert abs(overlap) < 5 / math.sqrt(n)  # every client draws for itself


def test_the_noise_differs_from_round_to_round() -> None:
    def noise_of(seed: int, client: str = "a") -> torch.Tensor:
        rule = LocalDPRule(seed=5)
        received = {"x": torch.zeros(50)}
        tuned = {"x": torch.nn.Parameter(torch.zeros(50))}
        rule.begin(LocalStart(tuned, received, seed=seed, client=client))
        rule.finish(1)
        return tuned["x"].detach()

    assert torch.equal(noise_of(1), noise_of(1))
    assert not torch.isclose(noise_of(1), noise_of(2)).any()  # seeds of a client in two rounds
    assert not torch.isclose(noise_of(1), noise_of(1, "b")).any()


def test_releases_are_counted_per_client_and_server_reports_the_maximum() -> None:
    clients = toy_clients(START, 3)
    strategy = begun(LocalDP(noise_multiplier=4.0), "012", START)
    for server_round, count in enumerate((3, 1, 2), start=1):
        plan = strategy.plan(server_round, START, "012"[:count])
        updates = play_round(plan, clients[:count])
        strategy.aggregate(plan, updates[:1])
    # In the local model any change may stand for any other: twice the clip.
    epsilons = [dp_accounting.get_epsilon_gaussian(2.0 / math.sqrt(t), 1e-5) for t in (3, 2)]
    assert [u.metrics["releases"] for u in updates] == [3.0, 2.0]
    assert [u.metrics["epsilon"] for u in updates] == pytest.approx(epsilons, rel=1e-6)
    assert strategy.metrics()["epsilon"] == pytest.approx(epsilons[0], rel=1e-6)
    resumed = LocalDP(noise_multiplier=4.0)
    resumed.load_state(as_adapter(strategy.state()))
    assert resumed.metrics()["epsilon"] == strategy.metrics()["epsilon"]


@pytest.mark.parametrize(("seed", "releases"), [(None, 3), (5, 1)])
def test_rounds_that_were_lost_are_paid_for_unless_their_noise_is_the_same_again(
    seed: int | None, releases: int
) -> None:
    start = {"x": torch.zeros(2)}
    strategy = begun(LocalDP(noise_multiplier=4.0, seed=seed), "ab", start)
    strategy.plan(1, start, "ab")
    strategy.lost_rounds([("a", "b"), ("a",)])
    expected = dp_accounting.get_epsilon_gaussian(2.0 / math.sqrt(releases), 1e-5)
    assert strategy.metrics()["epsilon"] == pytest.approx(expected, rel=1e-6)


def test_the_loss_which_no_noise_covers_is_withheld() -> None:
    (update,) = answers(LocalDP(inner="fedprox"), START, toy_clients(START)[:1])
    assert math.isnan(update.metrics["loss"])
    assert update.metrics.keys() == {"loss", "steps", "releases", "epsilon"}
    assert update.aux == {}


@pytest.mark.parametrize(
    ("inner", "what"),
    [
        ("scaffold", "sends"),
        ("fednova", "sends"),
        ("feddyn", "keeps"),
        ("feddyn(warmup=3)", "keeps"),
        ("fedsa_lora", "keeps"),
    ],
)
def test_inner_halves_with_tensors_of_their_own_are_refused(inner: str, what: str) -> None:
    with pytest.raises(UserError, match=f"client half '.*' {what} tensors beside the adapter"):
        begun(LocalDP(inner=inner), "0", FACTORS)
    (client,) = toy_clients(FACTORS, 1)
    spec = begun(load(inner, Strategy), "0", FACTORS).plan(9, FACTORS, "0").rule
    rule = LocalDPRule(spec)
    with pytest.raises(UserError, match="tensors beside the adapter"):
        client.train(FACTORS, rule, {})


@pytest.mark.parametrize(
    "inner",
    [
        "fedavg",
        "fedprox",
        "fedadam",
        "krum",
        "ffa_lora",
        "rolora",
        "fedsvd",
        "attacked(clients='1')",
    ],
)
def test_inner_halves_without_tensors_of_their_own_are_accepted(inner: str) -> None:
    clients = [str(index) for index in range(5)]
    strategy = begun(LocalDP(inner=inner), clients, FACTORS)
    assert strategy.inner.run is strategy.run


def test_a_diverged_client_sends_nothing() -> None:
    (client,) = toy_clients(START, 1)
    client.learning_rate = 1e30
    with pytest.raises(AdapterError, match="not finite"):
        client.train(START, LocalDPRule(), {})


def test_every_hook_is_handed_on() -> None:
    rules = [n for n, _ in inspect.getmembers(ClientRule, inspect.isfunction) if n[0] != "_"]
    rules.remove("personal")  # asked of the inner strategy's own rule, by its personal_rule
    assert all(name in vars(LocalDPRule) for name in rules)
    hooks = {n for n, m in vars(Strategy).items() if inspect.isfunction(m) and n[0] != "_"}
    assert hooks <= vars(LocalDP).keys() | vars(Wrapping).keys()


def test_the_noise_of_a_seed_differs_between_rounds() -> None:
    clients = [ToyClient(key, scalar(0.0), steps=1) for key in "ab"]
    strategy = LocalDP(seed=5)
    first, again, second = (
        [update.adapter["x"].item() for update in answers(strategy, scalar(0.0), clients, number)]
        for number in (1, 1, 2)
    )
    assert first == again
    assert not set(first) & set(second)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("inner='fedavgg'", "did you mean 'fedavg'"),
        ("clip=-1.0", "clip: expected"),
        ("noise_multiplier=-0.1", "noise_multiplier: expected"),
        ("noise_multiplier=1e-08", "noise_multiplier: expected 0 for no noise, or .* 0.0001"),
        ("delta=2.0", "delta: expected"),
        ("seed='x'", "seed: expected"),
    ],
)
def test_mistakes_are_found_on_the_server(arguments: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(f"local_dp({arguments})", Strategy)


def test_a_run_keeps_each_clients_epsilon(tmp_path: Path) -> None:
    spec = "local_dp(clip=0.5, noise_multiplier=0.01)"
    folder = run_small(tmp_path, clients=2, strategy=spec)
    found = [(e["client"], e["releases"]) for e in events(folder, "client")]
    assert found == [("0", 1), ("1", 1), ("0", 2), ("1", 2)]
    assert not any("loss" in event for event in events(folder, "client"))
    expected = [dp_accounting.get_epsilon_gaussian(0.005 / math.sqrt(t), 1e-5) for t in (1, 2)]
    rows = read_lines(folder / "metrics.jsonl")
    ends = [row["epsilon"] for row in rows if row["source"] == "training"]
    assert ends == pytest.approx(expected, rel=1e-6)
    of_client = [e["epsilon"] for e in events(folder, "client") if e["client"] == "1"]
    assert of_client == pytest.approx(expected, rel=1e-6)
