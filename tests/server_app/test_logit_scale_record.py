"""Where the logit scale travels, the record says what it was after every round."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from fl2ora.clip_tuning.embedded import load_embedded
from fl2ora.clip_tuning.methods.logit_scale import scale_metrics
from fl2ora.reporting.events import read_lines
from fl2ora.reporting.tables import metrics_table
from runs import events, final_adapter, run_small


def test_the_figure_is_what_cosines_are_multiplied_by() -> None:
    log = torch.tensor(100.0).log()
    assert scale_metrics({"logit_scale": log})["logit_scale"] == pytest.approx(100, rel=1e-6)
    assert scale_metrics({"a": log}) == {}


@pytest.mark.parametrize("method", ["logit_scale", "logit_scale('lora')"])
def test_logit_scale_is_recorded_every_round(tmp_path: Path, method: str) -> None:
    folder = run_small(tmp_path, method=method, num_rounds=2)
    rows = [row for row in read_lines(folder / "metrics.jsonl") if row["source"] == "training"]
    first, second = (row["logit_scale"] for row in rows)
    start = math.exp(float(load_embedded()[0].logit_scale.detach()))
    assert first != pytest.approx(second, rel=1e-4)
    assert first == pytest.approx(start, rel=0.5)
    assert second == pytest.approx(math.exp(float(final_adapter(folder)["logit_scale"])), rel=1e-6)
    table = metrics_table(folder)
    assert table[table["source"] == "training"]["logit_scale"].tolist() == [first, second]


def test_one_averaged_over_rounds_is_in_the_event(tmp_path: Path) -> None:
    method = "logit_scale('prompt_src(length=2, depth=1, mean=1.0)')"
    folder = run_small(tmp_path, method=method, learning_rate=0.05, resamples=0)
    (event,) = events(folder, "averaged")
    final = math.exp(float(final_adapter(folder)["logit_scale"]))
    assert event["logit_scale"] == pytest.approx(final, rel=1e-6)
    rows = [row for row in read_lines(folder / "metrics.jsonl") if row["source"] == "training"]
    logs = [math.log(row["logit_scale"]) for row in rows]
    mean = sum(w * log for w, log in zip(event["weights"], logs, strict=True))
    assert math.log(final) == pytest.approx(mean, abs=1e-6)
    assert final != pytest.approx(rows[-1]["logit_scale"], rel=1e-5)


def test_logit_scale_is_not_recorded_when_frozen(tmp_path: Path) -> None:
    folder = run_small(tmp_path, method="full", num_rounds=1, learning_rate=0.01, resamples=0)
    assert all("logit_scale" not in row for row in read_lines(folder / "metrics.jsonl"))
