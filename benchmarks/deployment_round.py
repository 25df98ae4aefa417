"""What a round costs in a deployment: a SuperLink and nodes on this machine, over loopback.

    python -m benchmarks.deployment_round --rounds 4 --node "flower-supernode"
    python -m benchmarks.deployment_round --rounds 4 --node "fl2ora node run"
    python -m benchmarks.deployment_round --rounds 4 --node "fl2ora node run" --vit-b-16

Printed is how long each round trained and how long it was measured on the nodes, by the run's own
record, and the processor time of everything together. The first round is left out of the medians:
it loads what later ones find. ``--vit-b-16`` takes a CLIP of that size with random weights.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shlex
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks.random_clip import vit_b_16
from fl2ora.clip_tuning.model_folder import write_model
from fl2ora.engines.private_superlink import PrivateSuperLink, free_port, stop, tool
from fl2ora.experiment.config import RunConfig, Value
from fl2ora.federated_data.datasets.shapes import Shapes
from fl2ora.reporting.events import read_lines

ROOT = Path(__file__).resolve().parents[1]
CLIENTS = 2
SETTINGS: dict[str, Value] = {
    "dataset": "shapes(styles='held-back', train=800, validation=16, test=64)",
    "partition": "iid",
    "learning-rate": 0.3,
    "callbacks": "none",
    "resamples": 0,
    "evaluate-on": "nodes",
    "num-clients": CLIENTS,
}


class OpenSuperLink(PrivateSuperLink):
    """One for a deployment on this machine, without TLS."""

    options = ("--insecure",)


def measure(settings: dict[str, Value], node: str) -> tuple[list[dict[str, float]], float]:
    """Run one deployment; return the seconds of each round's training and measuring.

    The second value is the processor time of all processes together, from start to end.
    """
    folder = Path(tempfile.mkdtemp(prefix="fl2ora-deployment-"))
    keys: dict[str, Value] = {**settings, "output-dir": str(folder), "run-name": "run"}
    file = folder / "run.toml"
    flat = RunConfig.from_flat(keys).flat()
    file.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in flat.items()))
    with OpenSuperLink() as superlink, contextlib.ExitStack() as nodes:
        for index in range(CLIENTS):
            nodes.enter_context(_node(superlink, node, folder / f"node-{index}", index))
        run_id = superlink.submit(ROOT, file)
        ended: set[str] = set()
        # Not by Flower's command, which takes seconds of the processor each time it is asked.
        while not ended & {"finished", "failed", "interrupted"}:
            time.sleep(0.5)
            ended = {event["event"] for event in read_lines(folder / "run" / "events.jsonl")}
        if "finished" not in ended:
            superlink.add_run_log(run_id)
            raise SystemExit(superlink.log_tail(40))
        used = _processor()
    return _rounds(folder / "run"), used


def _processor() -> float:
    """Return the seconds of all processes below this one, those that have ended too."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (
        ended.ru_utime
        + ended.ru_stime
        + sum(sum(p.cpu_times()[:4]) for p in psutil.Process().children(recursive=True))
    )


@contextlib.contextmanager
def _node(superlink: PrivateSuperLink, command: str, home: Path, index: int) -> Iterator[None]:
    home.mkdir()
    words = shlex.split(command)
    options = [
        "--superlink", superlink.address, "--insecure", "--port", str(free_port()),
        "--node-config", f"partition-id={index} num-partitions={CLIENTS}",
    ]  # fmt: skip
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [tool(words[0]), *words[1:], *options],
            cwd=home,
            env={**superlink.environment, "FLWR_HOME": str(home), "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield
    finally:
        stop(process)


def write_vit_b_16(folder: Path) -> str:
    """Write a CLIP of ViT-B/16's shapes with random weights; return the folder's path."""
    clip, (mean, deviation) = vit_b_16(list(Shapes.class_names)), ([0.5] * 3, [0.25] * 3)
    described = {
        **{f"do_{step}": True for step in ("resize", "center_crop", "normalize", "rescale")},
        **{"image_mean": mean, "image_std": deviation, "resample": 3, "rescale_factor": 1 / 255},
        **{"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}},
    }
    write_model(folder, clip.model, clip.tokenizer, described)
    return str(folder)


def _rounds(folder: Path) -> list[dict[str, float]]:
    trained: dict[int, tuple[float, float]] = {}
    measured: dict[int, float] = {}
    for event in read_lines(folder / "events.jsonl"):
        if event["event"] == "round-end":
            trained[event["round"]] = event["duration"], event["seconds"]
        elif event["event"] == "metrics" and event["source"] == "clients-test":
            measured[event["round"]] = event["seconds"]
    return [
        {"training": duration, "measuring": round(measured[number] - end, 3)}
        for number, (duration, end) in trained.items()
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--node", default="flower-supernode", help="the node's command")
    parser.add_argument("--vit-b-16", action="store_true", help="a CLIP of that size")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    settings = {**SETTINGS, "num-rounds": arguments.rounds}
    for assignment in arguments.set:
        key, _, value = assignment.partition("=")
        try:
            settings[key] = json.loads(value)
        except ValueError:
            settings[key] = value
    with tempfile.TemporaryDirectory(prefix="fl2ora-vit-b-16-") as folder:
        if arguments.vit_b_16:
            settings["model"] = write_vit_b_16(Path(folder))
        rows, used = measure(settings, arguments.node)
    for number, row in enumerate(rows, start=1):
        print(
            f"round {number}: training {row['training']:.1f} s, measuring {row['measuring']:.1f} s"
        )
    for name in ("training", "measuring"):
        print(f"{name}: median {statistics.median(row[name] for row in rows[1:]):.1f} s")
    print(f"processor: {used:.0f} s, start of the run included")
    print(f"node: {arguments.node}; {os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
