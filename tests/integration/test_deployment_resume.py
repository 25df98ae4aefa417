"""A deployment that was killed, server and nodes, goes on by the file of settings it left."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from benchmarks.loopback import ROOT, SecureSuperLink, supernode
from deployment import STANDSTILL, end_of
from fl2ora.engines.private_superlink import PrivateSuperLink
from fl2ora.experiment.config import RunConfig
from runs import SMALL, assert_equal_runs, events, run_small

CLIENTS = 2
FEDDYN = {"strategy": "feddyn", "num-rounds": 3, "callbacks": "none"}

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("alone")]


@contextlib.contextmanager
def nodes_of(
    superlink: SecureSuperLink, tmp_path: Path
) -> Iterator[Sequence[subprocess.Popen[bytes]]]:
    """Start the nodes, each with a folder for what it keeps."""
    with contextlib.ExitStack() as stack:
        started = []
        for index in range(CLIENTS):
            key = superlink.registered_key(f"site-{index}")
            state = tmp_path / "state" / str(index)
            told = f"partition-id={index} num-partitions={CLIENTS} state-dir='{state}'"
            folder = tmp_path / f"node-{index}"
            started.append(stack.enter_context(supernode(superlink, key, folder, told)))
        yield started


def kill_all(superlink: PrivateSuperLink, nodes: Sequence[subprocess.Popen[bytes]]) -> None:
    assert superlink._process is not None
    for process in (superlink._process, *nodes):
        for member in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        process.kill()


def wait_for_update(
    folder: Path, count: int, signs: Sequence[Path], link: PrivateSuperLink
) -> None:
    """Wait until so many updates are on record, as long as something still grows."""
    moved, seen = time.monotonic(), -1
    while len(events(folder, "client")) < count:
        grown = sum(path.stat().st_size for path in signs if path.exists())
        if grown != seen:
            moved, seen = time.monotonic(), grown
        assert time.monotonic() < moved + STANDSTILL, link.log_tail(40)
        time.sleep(0.2)


def test_new_processes_find_what_was_kept_on_disk(tmp_path: Path) -> None:
    """They are killed in round 2, of which one client at least has kept its state already."""
    folder, settings = tmp_path / "run", tmp_path / "run.toml"
    keys = {"output-dir": str(tmp_path), "run-name": "run", "start-timeout": 600.0, **FEDDYN}
    config = RunConfig.from_flat({**SMALL, "num-clients": CLIENTS, **keys})  # type: ignore[dict-item]
    settings.write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in config.flat().items()))
    signs = [folder / "events.jsonl", *(tmp_path / f"node-{i}" / "log" for i in range(CLIENTS))]
    first = tmp_path / "first"
    first.mkdir()
    with SecureSuperLink(first) as superlink, nodes_of(superlink, tmp_path) as nodes:
        superlink.submit(ROOT, settings)
        wait_for_update(folder, CLIENTS + 1, signs, superlink)
        kill_all(superlink, nodes)
    kept = sorted(path.name for path in (tmp_path / "state").rglob("*.safetensors"))
    assert any(name.startswith("0000002-") for name in kept), kept
    second = tmp_path / "second"
    second.mkdir()
    with SecureSuperLink(second) as superlink, nodes_of(superlink, tmp_path):
        run_id = superlink.submit(ROOT, folder / "resume.toml")
        assert end_of(superlink, run_id, signs) == "finished:completed", superlink.log_tail(60)
    (resumed,) = events(folder, "resumed")
    assert resumed["round"] in (1, 2)  # 2 where the server was quicker than the killing
    same = {key.replace("-", "_"): value for key, value in FEDDYN.items()}
    assert_equal_runs(folder, run_small(tmp_path / "whole", clients=CLIENTS, **same))
