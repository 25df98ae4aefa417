"""A federation left alone for an hour: what memory its processes hold, round after round.

    python -m benchmarks.soak --minutes 60

A SuperLink with TLS and its database, and two nodes with keys, started by ``fl2ora node run``, on
this machine over loopback. They run rounds, measured on the nodes, until the time is up; then the
run is asked to stop. Printed, plotted (``soak.png``) and written (``soak.json``) is the memory of
each process and its growth per round, by the Theil-Sen estimator over the samples after the first
quarter: the median of the slopes between all pairs, which a few jumps do not move.

Memory is PSS: pages that forked processes share count in equal parts for each of them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from scipy.stats import theilslopes

from benchmarks.deployment_round import SETTINGS
from benchmarks.loopback import ROOT, SecureSuperLink, supernode
from fl2ora.experiment.config import RunConfig, Value
from fl2ora.reporting.events import EVENTS_FILE, read_lines
from fl2ora.reporting.plot_style import PAGE, new_figure, save

CLIENTS = 2
KEYS: dict[str, Value] = {
    **SETTINGS,
    "dataset": "shapes(styles='held-back', train=120, validation=16, test=64)",
    "num-rounds": 100_000,
    "learning-rate": 0.01,
    "start-timeout": 600.0,
}
_MIB = 2**20
_ROLES = {
    "warm_worker": "worker",
    "flower-supernode": "SuperNode",
    "flower-superlink": "SuperLink",
    "flower-superexec": "SuperExec",
    "flwr-serverapp": "ServerApp",
    "fl2ora": "fl2ora node run",
}


def soak(folder: Path, minutes: float, every: float) -> list[dict[str, Any]]:
    """Run the federation; return a sample of each process at each time.

    Args:
        folder: for everything; empty.
        minutes: after the first round.
        every: seconds between samples.
    """
    settings, run = folder / "run.toml", folder / "run"
    keys = {**KEYS, "output-dir": str(folder), "run-name": "run"}
    flat = RunConfig.from_flat(keys).flat()
    settings.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in flat.items()))
    samples: list[dict[str, Any]] = []
    with SecureSuperLink(folder) as superlink, contextlib.ExitStack() as nodes:
        for index in range(CLIENTS):
            told = f"partition-id={index} num-partitions={CLIENTS}"
            key, home = superlink.registered_key(f"site-{index}"), folder / f"node-{index}"
            command = ("fl2ora", "node", "run")
            nodes.enter_context(supernode(superlink, key, home, told, command=command))
        run_id = superlink.submit(ROOT, settings)
        started = 0.0
        while not started or time.monotonic() < started + 60 * minutes:
            time.sleep(every)
            lines = read_lines(run / EVENTS_FILE)
            if any(line["event"] in ("failed", "finished", "gave-up") for line in lines):
                superlink.add_run_log(run_id)
                raise SystemExit(superlink.log_tail(40))
            rounds = sum(line["event"] == "round-end" for line in lines)
            if rounds:
                started = started or time.monotonic()
                samples += _sampled(rounds, time.monotonic() - started)
        (run / "stop").touch()
        while superlink.status(run_id) == "running":
            time.sleep(5)
    return samples


def _sampled(rounds: int, seconds: float) -> Iterator[dict[str, Any]]:
    """Yield the memory of every process below this one."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            memory = process.memory_full_info()
            yield {
                "round": rounds,
                "seconds": round(seconds, 1),
                "process": process.pid,
                "role": _role(process),
                "pss": memory.pss,
                "rss": memory.rss,
            }


def _role(process: psutil.Process) -> str:
    """Return what a process is, by its command; a run's process has that of its worker."""
    words, parent = process.cmdline(), process.parent()
    if any("warm_worker" in word for word in (parent.cmdline() if parent else [])):
        return "run's process"
    names = [Path(word).name for word in words[:4]]
    known = [role for command, role in _ROLES.items() if any(command in name for name in names)]
    return known[0] if known else " ".join(names[:2])


def growth(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row for each process that was there from the first quarter to the end."""
    last = max(sample["seconds"] for sample in samples)
    rows = []
    for (role, process), found in _by_process(samples).items():
        kept = [sample for sample in found if sample["seconds"] >= last / 4]
        if len(kept) < 5 or found[-1]["seconds"] < 0.9 * last:
            continue
        rounds, pss = [s["round"] for s in kept], [s["pss"] / _MIB for s in kept]
        slope, _, low, high = theilslopes(pss, rounds)
        rows.append(
            {
                "role": role,
                "process": process,
                "first_mib": round(found[0]["pss"] / _MIB, 1),
                "quarter_mib": round(pss[0], 1),
                "last_mib": round(pss[-1], 1),
                "kib_per_round": round(1024 * float(slope), 2),
                "interval_95": [round(1024 * float(low), 2), round(1024 * float(high), 2)],
            }
        )
    return rows


def plot(samples: list[dict[str, Any]], path: Path) -> None:
    """Draw the memory of each process over the rounds."""
    with new_figure(PAGE, 3.2) as figure:
        axes = figure.subplots()
        for (role, process), found in _by_process(samples).items():
            if len(found) > 1:
                pss = [sample["pss"] / _MIB for sample in found]
                rounds = [sample["round"] for sample in found]
                axes.plot(rounds, pss, label=f"{role} ({process})", linewidth=1)
        axes.set_xlabel("rounds done")
        axes.set_ylabel("PSS (MiB)")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        save(figure, path)


def _by_process(samples: list[dict[str, Any]]) -> dict[tuple[str, int], list[dict[str, Any]]]:
    held: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for sample in samples:
        held[sample["role"], sample["process"]].append(sample)
    return dict(sorted(held.items()))


def main() -> None:
    """Soak, print, plot and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=20.0, help="seconds between samples")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fl2ora-soak-"))
    print(f"folder: {folder}", flush=True)
    samples = soak(folder, arguments.minutes, arguments.every)
    rows = growth(samples)
    for row in rows:
        low, high = row["interval_95"]
        print(
            f"{row['role']:16} {row['quarter_mib']:8.1f} -> {row['last_mib']:8.1f} MiB, "
            f"{row['kib_per_round']:8.2f} KiB a round ({low:.2f} to {high:.2f})"
        )
    about = {
        "command": f"python -m benchmarks.soak --minutes {arguments.minutes:g}",
        "machine": f"{os.cpu_count()} cores, load {os.getloadavg()[2]:.1f} at the end",
        "rounds": samples[-1]["round"],
        "growth": rows,
        "round_and_pss_mib": {
            f"{role} ({process})": [[s["round"], round(s["pss"] / _MIB, 1)] for s in found]
            for (role, process), found in _by_process(samples).items()
        },
    }
    (arguments.output / "soak.json").write_text(json.dumps(about) + "\n")
    plot(samples, arguments.output / "soak.png")


if __name__ == "__main__":
    main()
