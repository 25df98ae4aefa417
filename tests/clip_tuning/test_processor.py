"""What torch is told of the processor: threads, and memory that is kept between steps."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fl2ora.client_app import app
from fl2ora.clip_tuning import processor
from fl2ora.clip_tuning.processor import use_processor
from fl2ora.server_app import federated_run
from runs import run_small

Calls = list[tuple[int, int]]
TRIM, MMAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h


@pytest.fixture(params=[2**27])
def told(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    """Return what the C library takes, at most the parameter; it has been told nothing yet."""
    calls: Calls = []

    def mallopt(name: int, value: int) -> int:
        taken = name == TRIM or value <= request.param
        if taken:
            calls.append((name, value))
        return int(taken)

    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=mallopt))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    processor._keep_freed_memory.cache_clear()
    yield calls
    processor._keep_freed_memory.cache_clear()


def test_threads_are_those_asked_for() -> None:
    before = torch.get_num_threads()
    try:
        for threads in (2, 1):
            use_processor(threads)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (2**27, [(MMAP, 2**27), (TRIM, -1)]),
        (2**25, [(MMAP, 2**25), (TRIM, -1)]),
        (0, []),  # without blocks of its own, keeping none but small ones would slow it down
    ],
    indirect=["told"],
)
def test_the_library_is_told_once_to_keep_what_is_freed(told: Calls, expected: Calls) -> None:
    use_processor(torch.get_num_threads())
    use_processor(torch.get_num_threads())
    assert told == expected


@pytest.mark.parametrize("reason", ["variable", "system", "library"])
def test_it_is_left_as_it_is(told: Calls, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason == "variable":
        monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    elif reason == "system":
        monkeypatch.setattr(sys, "platform", "darwin")
    else:
        monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    use_processor(torch.get_num_threads())
    assert told == []


FREED = """
import resource, sys, torch
from fl2ora.clip_tuning.processor import use_processor
use_processor(1)
for _ in range(100):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(int(sys.argv[1]))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
@pytest.mark.parametrize("numbers", [5_000_000, 30_000_000])
def test_memory_that_was_freed_is_used_again(numbers: int) -> None:
    """20 and 120 MB are 4,900 and 29,000 pages; the last steps have no new ones."""
    found = subprocess.run(
        [sys.executable, "-c", FREED, str(numbers)],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert max(map(int, found.stdout.split()[-20:])) < 100


def test_server_and_nodes_of_a_run_tell_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, list[int]] = {"server": [], "node": []}
    monkeypatch.setattr(federated_run, "use_processor", told["server"].append)
    monkeypatch.setattr(app, "use_processor", told["node"].append)
    run_small(tmp_path, clients=2, num_rounds=1)
    assert told["server"] == [1]
    assert {*told["node"]} == {1}
