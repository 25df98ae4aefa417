"""Kill a run at random moments, resume it each time, and compare it with one that was left alone.

    python -m benchmarks.kill_anywhere --moments 20 --rounds 10

Each run is a process of its own, ended by SIGKILL. Moments are drawn from the lines of its record
and a little time after them: while it loads, trains, measures, saves, and writes its results at
the end. In which rounds that was is printed, so that one sees what was tried.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Mapping
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from fl2ora.engines.new_run import run, settings_of
from fl2ora.experiment.config import Value
from fl2ora.reporting.events import EVENTS_FILE, read_lines
from fl2ora.reporting.run_file import RUN_FILE

RUNS: dict[str, dict[str, Value]] = {
    "fedavg": {"strategy": "fedavg"},
    "feddyn": {"strategy": "feddyn"},
    "fedpgp": {"method": "fedpgp(length=2)", "learning-rate": 0.01},
}
SMALL: dict[str, Value] = {
    "dataset": "shapes(styles='held-back', train=60, validation=16, test=32)",
    "partition": "iid",
    "learning-rate": 0.3,
    "resamples": 5,
    "metrics": "default + classwise_ece",
    "fraction-train": 0.7,
    "callbacks": "default + early_stop(patience=99)",
}
COMPARED = (
    "global.safetensors", "metrics.jsonl", "metrics.csv", "classwise.csv", "logits.safetensors",
    "adapter-best-nll/best.json", "adapter-best-nll/adapter_model.safetensors",
)  # fmt: skip
CLIENTS = 3
_LOADED = (
    "fl2ora.commands.app", "fl2ora.engines.in_process", "fl2ora.reporting.plots", "pandas", "peft",
)  # fmt: skip
_LOOK_SECONDS, _MOST_SECONDS = 0.005, 0.3


def forkserver() -> ForkServerContext:
    """Return what starts processes that have loaded torch and the other libraries already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_LOADED))
    return context


def begin(settings: Mapping[str, Value]) -> ForkServerProcess:
    """Start a run in a process of its own."""
    process = forkserver().Process(target=_run, args=(dict(settings),))
    process.start()
    return process


def kill_and_resume(settings: Mapping[str, Value], lines: int, seconds: float) -> tuple[Path, int]:
    """Start a run, kill it at some moment, and let it go on to its end.

    Args:
        settings: with ``output-dir`` and ``run-name``.
        lines: of ``events.jsonl`` to wait for.
        seconds: to wait further; a run that ends before is not killed.

    Returns:
        Its folder, and how many rounds it had begun when it was killed.
    """
    folder = Path(str(settings["output-dir"])) / str(settings["run-name"])
    process = begin(settings)
    while process.is_alive() and len(read_lines(folder / EVENTS_FILE)) < lines:
        time.sleep(_LOOK_SECONDS)
    process.join(seconds)
    process.kill()
    process.join()
    begun = [e for e in read_lines(folder / EVENTS_FILE) if e["event"] == "round-start"]
    if ended(folder):
        return folder, len(begun)
    if not (folder / RUN_FILE).exists():  # killed before there was a run to go on with
        finish(begin(settings))
    else:
        finish(begin(settings_of(folder)))
    return folder, len(begun)


def finish(process: ForkServerProcess) -> None:
    """Wait for a run that must end well."""
    process.join()
    if process.exitcode:
        raise RuntimeError(f"the run ended with {process.exitcode}")


def ended(folder: Path) -> bool:
    """Return whether the run in a folder says that it has finished."""
    events = read_lines(folder / EVENTS_FILE)
    return bool(events) and events[-1]["event"] == "finished"


def differences(folder: Path, whole: Path) -> list[str]:
    """Return the names of the files that are not the same bytes."""
    names = [name for name in COMPARED if (whole / name).exists()]
    return [
        name
        for name in names
        if not (folder / name).exists()
        or (folder / name).read_bytes() != (whole / name).read_bytes()
    ]


def try_moments(
    settings: Mapping[str, Value], root: Path, moments: int, seed: int
) -> tuple[Counter[int], list[str]]:
    """Kill a run at so many moments, one each; return the rounds begun, and what differed."""
    rng = random.Random(seed)
    base = {**SMALL, **settings, "output-dir": str(root)}
    finish(begin({**base, "run-name": "whole"}))
    lines = len(read_lines(root / "whole" / EVENTS_FILE))
    rounds: Counter[int] = Counter()
    wrong: list[str] = []
    for number in range(moments):
        named = {**base, "run-name": f"killed-{number}"}
        seconds = rng.uniform(0, _MOST_SECONDS)
        folder, begun = kill_and_resume(named, rng.randrange(lines), seconds)
        rounds[begun] += 1
        wrong += [f"moment {number}: {name}" for name in differences(folder, root / "whole")]
    return rounds, wrong


def _run(settings: dict[str, Value]) -> None:
    warnings.simplefilter("ignore")
    run(settings, CLIENTS)


def main() -> None:
    """Try all three runs and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for name, settings in RUNS.items():
        with tempfile.TemporaryDirectory() as root:
            told = {**settings, "num-rounds": arguments.rounds}
            rounds, wrong = try_moments(told, Path(root), arguments.moments, arguments.seed)
        found = ", ".join(f"{count} in round {begun}" for begun, count in sorted(rounds.items()))
        print(f"{name}: {arguments.moments} kills ({found}); {len(wrong)} files differ", *wrong)


if __name__ == "__main__":
    main()
