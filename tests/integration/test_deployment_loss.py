"""A node of a deployment is killed in the middle of a round, and started again."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest

from benchmarks.loopback import ROOT, SecureSuperLink, supernode
from deployment import STANDSTILL, end_of
from fl2ora.engines.private_superlink import PrivateSuperLink
from fl2ora.experiment.config import RunConfig
from runs import SMALL, events

CLIENTS = 2
NEEDS_BOTH = {"min-train-clients": 2, "num-rounds": 3, "callbacks": "summary", "resamples": 0}

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("alone")]


def wait_for(there: Callable[[], object], signs: Sequence[Path], link: PrivateSuperLink) -> None:
    """Wait as long as something still grows; a SuperLink needs a minute to miss a node."""
    moved, seen = time.monotonic(), -1
    while not there():
        grown = sum(path.stat().st_size for path in signs if path.exists())
        if grown != seen:
            moved, seen = time.monotonic(), grown
        assert time.monotonic() < moved + STANDSTILL, link.log_tail(40)
        time.sleep(0.2)


def kill(process: psutil.Process) -> None:
    for member in [*process.children(recursive=True), process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()


def test_a_node_killed_in_mid_round_is_missed_waited_for_and_used_again(tmp_path: Path) -> None:
    folder, settings = tmp_path / "run", tmp_path / "run.toml"
    keys = {"output-dir": str(tmp_path), "run-name": "run", "start-timeout": 900.0, **NEEDS_BOTH}
    config = RunConfig.from_flat({**SMALL, "num-clients": CLIENTS, **keys})  # type: ignore[dict-item]
    settings.write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in config.flat().items()))
    homes = [tmp_path / f"node-{index}" for index in range(CLIENTS)]
    signs = [folder / "events.jsonl", *(home / "log" for home in homes)]
    command = ("fl2ora", "node", "run")
    with SecureSuperLink(tmp_path) as superlink, contextlib.ExitStack() as nodes:
        keys_of = [superlink.registered_key(f"site-{index}") for index in range(CLIENTS)]
        told = [f"partition-id={i} num-partitions={CLIENTS}" for i in range(CLIENTS)]
        started = [
            nodes.enter_context(supernode(superlink, *node, command=command))
            for node in zip(keys_of, homes, told, strict=True)
        ]
        run_id = superlink.submit(ROOT, settings)
        wait_for(lambda: len(events(folder, "round-start")) == 2, signs, superlink)
        kill(psutil.Process(started[1].pid))
        wait_for(lambda: events(folder, "waiting"), signs, superlink)
        nodes.enter_context(supernode(superlink, keys_of[1], homes[1], told[1], command=command))
        assert end_of(superlink, run_id, signs) == "finished:completed", superlink.log_tail(60)
    (drop,) = events(folder, "drop")
    assert (drop["client"], drop["round"]) == ("1", 2)
    assert drop["reason"].startswith("its node went offline, found after ")
    assert [(e["usable"], e["expected"]) for e in events(folder, "adapter-kept")] == [(1, 2)]
    assert [(e["client"], e["round"]) for e in events(folder, "client-lost")] == [("1", 3)]
    assert [(e["client"], e["round"]) for e in events(folder, "client-back")] == [("1", 3)]
    assert {e["client"] for e in events(folder, "client") if e["round"] == 3} == {"0", "1"}
    (end,) = events(folder, "finished")
    assert (end["updates"], end["asked"]) == (5, 6)
