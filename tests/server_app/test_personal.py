"""Personal parts in whole runs: kept on the nodes, trained on, measured, and never sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message

from fl2ora.calibration.stats import StatsSpec
from fl2ora.calibration.summaries import summarise
from fl2ora.client_app.evaluation import local_evaluate
from fl2ora.clip_tuning.adapter import load_adapter
from fl2ora.clip_tuning.build import build_classifier
from fl2ora.federated_data.shares import divide, load_federation, share_out
from fl2ora.reporting.events import read_lines
from fl2ora.strategies.named_parts import take_part
from misbehaving import Wrapped
from runs import SMALL, final_adapter, run_small

METHOD = "fedpgp(length=2, rank=1)"
KEPT = {"left", "right"}
FEWER = {"learning_rate": 0.05, "num_rounds": 3}


def rows(folder: Path, source: str) -> dict[int, dict[str, Any]]:
    return {r["round"]: r for r in read_lines(folder / "metrics.jsonl") if r["source"] == source}


def names_in(message: Message) -> set[str]:
    return {name for r in message.content.array_records.values() for name in r}


@pytest.mark.parametrize(
    "method", [METHOD, "fedotp(length=2)", "promptfolio(length=2)", f"logit_scale({METHOD!r})"]
)
def test_the_personal_part_never_travels(tmp_path: Path, method: str) -> None:
    app = Wrapped()
    folder = run_small(tmp_path, client_app=app, method=method, evaluate_on="nodes", **FEWER)
    for kind in ("train", "evaluate"):
        for _, message in (*app.of(kind), *app.replies_to(kind)):
            assert not names_in(message) & {*KEPT, "local_context"}
    assert "context" in final_adapter(folder)
    assert not final_adapter(folder).keys() & {*KEPT, "local_context"}


def test_personal_models_are_measured_under_names_of_their_own(tmp_path: Path) -> None:
    folder = run_small(tmp_path, method=METHOD, **FEWER)
    for ending in ("", "-mean", "-sd", "-worst"):
        found = rows(folder, f"clients-test-personal{ending}")
        assert sorted(found) == [1, 2, 3]
        assert {"accuracy", "ece", "mce", "nll"} <= found[3].keys()
    personal, shared = rows(folder, "clients-test-personal"), rows(folder, "clients-test")
    assert personal[3]["num_examples"] == shared[3]["num_examples"]
    assert personal[3]["nll"] != pytest.approx(shared[3]["nll"], rel=1e-7)
    summary = (folder / "summary.md").read_text(encoding="utf-8")
    assert "(`clients-test-personal`)" in summary
    lora = run_small(tmp_path / "lora", num_rounds=1)
    assert not rows(lora, "clients-test-personal")


def newest(states: Path) -> list[Path]:
    """Return what each client kept in its last round."""
    last = {path.parent: path for path in sorted(states.rglob("*.safetensors"))}
    return list(last.values())


def test_personal_part_is_kept_between_rounds(tmp_path: Path) -> None:
    """What a node keeps on its disk is what its last training left, client by client."""
    states = tmp_path / "states"
    nodes = {index: {"state-dir": str(states)} for index in range(3)}
    run_small(tmp_path / "one", method=METHOD, node_configs=nodes, learning_rate=0.05)
    kept = {p.parent.name: take_part(load_adapter(p), "personal") for p in newest(states)}
    assert sorted(kept) == ["0", "1", "2"]
    assert all(adapter.keys() == KEPT for adapter in kept.values())
    assert not torch.equal(kept["0"]["left"], kept["1"]["left"])


def test_a_client_s_figures_are_those_of_what_it_kept(tmp_path: Path) -> None:
    """Recomputed from the files: the global adapter with each client's own part."""
    states = tmp_path / "states"
    nodes = {index: {"state-dir": str(states)} for index in range(3)}
    folder = run_small(tmp_path / "run", method=METHOD, node_configs=nodes, learning_rate=0.3)
    federation = load_federation(SMALL["dataset"], "in_distribution")
    shares = share_out(federation, "iid", 3, 3)
    classifier = build_classifier(
        "embedded", METHOD, federation.class_names, federation.templates, 3
    )
    classifier.restore(final_adapter(folder))
    sums = []
    for index, share in enumerate(shares):
        test = divide(share, 0.2, 3, str(index), 0.1).test
        (kept,) = (path for path in newest(states) if path.parent.name == str(index))
        with classifier.as_client(take_part(load_adapter(kept), "personal")):
            sums.append(local_evaluate(classifier, test, StatsSpec()))
        apart = local_evaluate(classifier, test, StatsSpec())
        assert summarise(apart)["nll"] != summarise(sums[-1])["nll"]
    pooled = summarise(sums[0] + sums[1] + sums[2])
    found = rows(folder, "clients-test-personal")[2]
    assert found["nll"] == pytest.approx(pooled["nll"], rel=1e-6)
    mean = rows(folder, "clients-test-personal-mean")[2]["nll"]
    assert mean == pytest.approx(sum(summarise(s)["nll"] for s in sums) / 3, rel=1e-6)


@pytest.mark.parametrize(
    "strategy", ["fedsa_lora", "fedsa_lora(share_b=False)", "attacked(inner='fedsa_lora')"]
)
def test_fedsa_s_own_models_are_measured(tmp_path: Path, strategy: str) -> None:
    """Recomputed from the files: the global A with each client's own B."""
    states = tmp_path / "states"
    nodes = {index: {"state-dir": str(states)} for index in range(3)}
    folder = run_small(tmp_path / "run", strategy=strategy, node_configs=nodes)
    federation = load_federation(SMALL["dataset"], "in_distribution")
    names = federation.class_names, federation.templates
    classifier, final, sums = build_classifier("embedded", "lora", *names, 3), None, []
    for index, share in enumerate(share_out(federation, "iid", 3, 3)):
        (kept,) = (path for path in newest(states) if path.parent.name == str(index))
        own, final = take_part(load_adapter(kept), "client-rule"), final_adapter(folder)
        assert all("lora_B" in name for name in own)
        assert any(not torch.equal(own[name], final[name]) for name in own)
        classifier.restore({**final, **own})
        sums.append(
            local_evaluate(classifier, divide(share, 0.2, 3, str(index), 0.1).test, StatsSpec())
        )
    found = rows(folder, "clients-test-personal")
    assert sorted(found) == [1, 2]
    expected = summarise(sums[0] + sums[1] + sums[2])["nll"]
    assert found[2]["nll"] == pytest.approx(expected, rel=1e-6)
    shared = rows(folder, "clients-test")
    assert shared[2]["nll"] != pytest.approx(expected, rel=1e-7)
    if "False" in strategy:  # of B nothing is sent, so the global adapter is zero-shot CLIP
        assert shared[2]["nll"] == pytest.approx(shared[0]["nll"], rel=1e-6)


def test_a_client_new_to_fedsa_has_the_global_model(tmp_path: Path) -> None:
    settings = {"strategy": "fedsa_lora", "fraction_train": 0.25, "evaluate_on": "nodes"}
    folder = run_small(tmp_path, clients=4, num_rounds=1, **settings)
    own, shared = rows(folder, "clients-test-personal")[1], rows(folder, "clients-test")[1]
    assert own["num_examples"] == shared["num_examples"]
    # The one client that took part is the only one whose B makes the mean.
    assert own["nll"] == pytest.approx(shared["nll"], rel=1e-9)


def test_a_node_that_forgets_before_it_trains_ends_elsewhere(tmp_path: Path) -> None:
    """So training really takes up again what is kept; what it leaves is what is measured."""

    class Forgetful(Wrapped):
        def __call__(self, message: Message, context: Any) -> Message:
            if message.metadata.message_type == "train":
                context.state.array_records.clear()
            return super().__call__(message, context)

    found = []
    for name, app in (("kept", Wrapped()), ("lost", Forgetful())):
        folder = run_small(tmp_path / name, client_app=app, method=METHOD, **FEWER)
        found.append(rows(folder, "clients-test-personal"))
    assert found[0][3]["nll"] != found[1][3]["nll"]


def test_a_client_left_out_has_the_part_all_start_with(tmp_path: Path) -> None:
    folder = run_small(tmp_path, clients=4, method=METHOD, fraction_train=0.25, num_rounds=1)
    chosen = next(e for e in read_lines(folder / "events.jsonl") if e["event"] == "round-start")
    assert len(chosen["clients"]) == 1
    own, shared = rows(folder, "clients-test-personal")[1], rows(folder, "clients-test")[1]
    assert own["num_examples"] == shared["num_examples"]
    assert own["nll"] != shared["nll"]


def test_local_noise_covers_what_is_gathered(tmp_path: Path) -> None:
    """A cache that went out as it is would be the client's features under a promise of privacy."""
    settings = {"method": "tip_adapter(shots=1)", "num_rounds": 1}
    plain, noisy, silent = (
        final_adapter(run_small(tmp_path / name, strategy=strategy, **settings))["cache"]
        for name, strategy in (
            ("plain", "fedavg"),
            ("noisy", "local_dp(clip=0.1, noise_multiplier=2.0, seed=1)"),
            ("clipped", "local_dp(clip=0.001, noise_multiplier=0.001, seed=1)"),
        )
    )
    assert float(plain.norm()) > 0.1
    assert float(silent.norm()) < 0.0011
    assert float(noisy.norm()) > 1


def test_flipped_labels_reach_what_is_gathered(tmp_path: Path) -> None:
    settings = {"method": "tip_adapter(shots=1)", "num_rounds": 1}
    plain, attacked = (
        final_adapter(run_small(tmp_path / strategy[:4], strategy=strategy, **settings))["cache"]
        for strategy in ("fedavg", "attacked(attack='label_flip', clients='0')")
    )
    assert not torch.allclose(plain, attacked)


def test_tip_adapter_is_there_after_one_round(tmp_path: Path) -> None:
    settings = {"partition": "dirichlet(beta=0.3)", "method": "tip_adapter(shots=2, alpha=3.0)"}
    one = run_small(tmp_path / "one", num_rounds=1, **settings)
    two = run_small(tmp_path / "two", num_rounds=2, cache_features=False, **settings)
    torch.testing.assert_close(
        final_adapter(one)["cache"], final_adapter(two)["cache"], rtol=1e-4, atol=1e-6
    )
    test = rows(one, "server-test")
    assert test[1]["accuracy"] > test[0]["accuracy"]
