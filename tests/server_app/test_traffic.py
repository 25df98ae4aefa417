"""Bytes on record are those that travelled, and what need not travel changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fl2ora.client_app import tasks
from fl2ora.client_app.node import Node
from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.digests import adapter_digest
from fl2ora.messages.hello import NodeInfo
from fl2ora.reporting.events import read_lines
from fl2ora.server_app.callbacks.base import RoundReport
from fl2ora.server_app.callbacks.traffic import Traffic
from fl2ora.server_app.known_start import Starts
from fl2ora.strategies.base import RoundPlan
from runs import assert_equal_runs, events, run_small

LORA = 38_400  # 9,600 values of the embedded model's default LoRA, four bytes each
HALF = LORA // 2
RANK_4 = {"method": "lora(rank=4)"}


def bytes_of(folder: Path) -> list[tuple[float, float]]:
    rows = read_lines(folder / "metrics.jsonl")
    return [(r["bytes_down"], r["bytes_up"]) for r in rows if r["source"] == "training"]


@pytest.mark.parametrize(
    ("settings", "rounds"),
    [
        ({"strategy": "fedavg"}, [(0, LORA), (LORA, LORA)]),
        (
            {"strategy": "scaffold", "optimiser": "sgd(momentum=0)"},
            [(0, LORA + 4), (2 * LORA, LORA + 4)],
        ),
        ({"strategy": "fednova"}, [(0, LORA + 8), (LORA, LORA + 8)]),
        ({"strategy": "ffa_lora"}, [(0, HALF), (HALF, HALF)]),
        # B in round 1, A in round 2: in round 3 neither is what it was at the start.
        ({"strategy": "rolora", "num_rounds": 3}, [(0, HALF), (HALF, HALF), (LORA, HALF)]),
        ({"strategy": "fedsa_lora(share_b=False)"}, [(0, HALF), (HALF, HALF)]),
        ({"strategy": "fedsvd"}, [(0, HALF), (LORA, HALF)]),
        # One step a round: A moves in the second, and what the factors cannot hold in the third.
        ({"strategy": "fedex_lora", "method": "lora_residual"}, [(0, LORA), (LORA, LORA)]),
        # A of rank 1 of 4 is other than at the start; B is zero and 9,600 long.
        ({"strategy": "flexlora(ranks='1')", **RANK_4}, [(HALF // 2, HALF), (HALF, HALF)]),
    ],
)  # fmt: skip
def test_every_tensor_that_travels_is_counted(
    tmp_path: Path, settings: dict[str, Any], rounds: list[tuple[int, int]]
) -> None:
    assert bytes_of(run_small(tmp_path, **settings)) == rounds


@pytest.mark.parametrize(
    "settings",
    [
        {"strategy": "ffa_lora", "evaluate_on": "nodes", "calibrator": "temperature"},
        {"strategy": "hetlora(ranks='1,4')", **RANK_4},
    ],
)
def test_a_run_is_the_same_where_nodes_are_sent_everything(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**settings, "callbacks": "none", "calibration_fraction": 0.3}
    found = run_small(tmp_path, **settings)
    monkeypatch.setattr(tasks, "_start_digest", lambda _: "")
    assert_equal_runs(run_small(tmp_path / "whole", **settings), found)


def test_a_client_that_said_what_is_not_so_is_left_out_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    initial = Node.initial

    def another(node: Node) -> Adapter:
        return {n: t + (node.key == "0") for n, t in initial(node).items()}

    monkeypatch.setattr(Node, "initial", another)
    monkeypatch.setattr(Starts, "_is_same", lambda *_: True)
    folder = run_small(tmp_path, strategy="ffa_lora", num_rounds=1)
    (drop,) = events(folder, "drop")
    assert drop["client"] == "0"
    assert "arrays: the tensors left out are those of digest" in drop["reason"]
    assert bytes_of(folder)[0][1] == HALF  # of the others


def test_a_node_that_says_nothing_or_another_start_is_sent_everything() -> None:
    adapter = {"x": torch.ones(2)}
    infos = {
        "a": NodeInfo("a", start=adapter_digest(adapter)),
        "b": NodeInfo("b", start=adapter_digest({"x": torch.zeros(2)})),
        "c": NodeInfo("c"),
    }
    starts = Starts()
    assert not starts.known({1: "a", 3: "c"}, infos).nodes  # before the run has one
    starts.begin(adapter)
    assert starts.known({1: "a", 2: "b", 3: "c"}, infos).nodes == {1}
    assert starts.known({7: "c"}, infos).nodes == set()


def test_means_are_over_what_was_sent_and_what_came() -> None:
    plan = RoundPlan(1, {}, ("a", "b", "c"))
    report = RoundReport(plan, {}, bytes_down=[8, 16, 24], bytes_up=[10])
    assert Traffic().after_training(report).metrics == {"bytes_down": 16, "bytes_up": 10}
    assert Traffic().after_training(RoundReport(plan, {}, bytes_down=[8])).metrics == {
        "bytes_down": 8
    }
