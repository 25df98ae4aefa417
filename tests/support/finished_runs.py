"""Folders as finished runs leave them, made without a run: what reports are tested on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fl2ora.calibration.metrics.table import DEFAULT
from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.calibration.summaries import summarise
from fl2ora.experiment.config import RunConfig
from fl2ora.reporting.logits import SavedLogits, Scored
from fl2ora.reporting.sweep_folder import CellRecord, ChoiceRecord, SweepRecord

IMAGES, CLASSES = 240, 4


def logits(sharpness: float, noise: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return logits of ``IMAGES`` images and their labels, which are the same for every seed."""
    labels = torch.arange(IMAGES) % CLASSES
    generator = torch.Generator().manual_seed(seed)
    values = noise * torch.randn(IMAGES, CLASSES, generator=generator)
    values[torch.arange(IMAGES), labels] += 1
    return sharpness * values, labels


def metrics_of(values: Tensor, labels: Tensor) -> dict[str, float]:
    spec = StatsSpec(num_bins=15, fine_bins=StatsSpec.fine_bins)
    return summarise(CalibrationStats.from_logits(values, labels, spec), DEFAULT)


def finished_run(
    folder: Path,
    settings: Mapping[str, Any] | None = None,
    *,
    sharpness: float = 3.0,
    noise: float = 0.6,
    code: str = "0123456789abcdef",
    saved: bool = True,
) -> Path:
    """Write a run of two rounds whose model has the given sharpness, and its seed's noise."""
    config = RunConfig.from_flat({"num-rounds": 2, **(settings or {})})
    folder.mkdir(parents=True)
    run = {"config": config.flat(), "fingerprint": code, "run_id": "1", "versions": {}}
    (folder / "run.json").write_text(json.dumps(run))
    events = [{"event": "start"}, {"event": "finished", "seconds": 3.0}]
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    start, labels = logits(9.0, 1.0)
    final, _ = logits(sharpness, noise, config.seed + 1)
    rounds = [start, (start + final) / 2, final]
    rows: list[dict[str, Any]] = [
        {"round": number, "source": "server-test", **metrics_of(values, labels)}
        for number, values in enumerate(rounds)
    ]
    rows += [
        {"round": number, "source": "training", "clients": 3, "bytes_down": 500, "bytes_up": 250.0}
        for number in (1, 2)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if saved:
        features = torch.eye(CLASSES)
        parts = {"server-test": Scored(final, labels, start)}
        SavedLogits(parts, {}, {}, features, features).save(folder)
    return folder


def finished_sweep(root: Path, seeds: int = 3) -> Path:
    """Write a sweep of two methods and two losses, one cell of which failed, with choices."""
    axes = {"method": ["lora", "bitfit"], "loss": ["cross_entropy", "cross_entropy + 2*dca"]}
    cells = []
    for place, (method, loss) in enumerate((m, x) for m in axes["method"] for x in axes["loss"]):
        for seed in range(seeds):
            name = f"cells/{place}-{seed}"
            labels = {"method": method, "loss": loss}
            if (place, seed) == (3, 0):
                cells.append(CellRecord(labels, seed, name, "failed", "a <reason> & more"))
                continue
            settings = {"method": method, "loss": loss, "seed": seed}
            finished_run(root / name, settings, sharpness=3.0 + 3 * place, noise=0.5 + place / 10)
            cells.append(CellRecord(labels, seed, name, "done"))
    curve = [{"value": 0.1, "mean": 1.25, "sd": None, "n": 1},
             {"value": 0.3, "mean": None, "sd": None, "n": 1}]  # fmt: skip
    choice = ChoiceRecord({"method": "lora"}, "learning-rate", "nll", curve, 0.1, True)
    SweepRecord({"axes": axes}, "code", list(axes), cells, [choice]).save(root)
    return root
