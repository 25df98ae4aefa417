"""Conformal sets in a run: the threshold of all clients, coverage and size where they are told."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.special import softmax
from typer.testing import CliRunner

from fl2ora.calibration.calibrators.files import build_calibrator
from fl2ora.commands.app import cli
from fl2ora.commands.calibrate import calibrate
from fl2ora.reporting.logits import SavedLogits, Scored
from fl2ora.results.loading import source_at
from fl2ora.server_app.calibrating import fit_saved
from runs import events, run_small

SPEC = "conformal(alpha=0.25)"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    return run_small(
        root, clients=2, num_rounds=1, calibrator=SPEC, calibration_fraction=0.3,
        callbacks="summary",
    )  # fmt: skip


def scores_of(part: Scored) -> np.ndarray:
    return 1 - softmax(part.logits.double().numpy(), axis=1)


def expected_sets(part: Scored, threshold: float) -> np.ndarray:
    sets = scores_of(part) <= threshold
    sets[np.arange(len(sets)), part.logits.argmax(dim=1).numpy()] = True
    return sets


def test_the_threshold_is_that_of_all_clients_scores(finished: Path) -> None:
    saved = SavedLogits.load(finished)
    scores = np.concatenate(
        [scores_of(p)[np.arange(len(p.labels)), p.labels] for p in saved.calibration.values()]
    )
    rank = math.ceil((len(scores) + 1) * 0.75)
    assert len(scores) > rank > 10
    fitted = source_at(finished).calibrator()
    assert fitted is not None
    threshold = float(fitted.parameters["threshold"])
    assert 0 <= threshold - np.sort(scores)[rank - 1] <= 256**-3
    assert len(events(finished, "calibrate")) == 3


def test_coverage_and_size_are_told_pooled_and_over_clients(finished: Path) -> None:
    saved = SavedLogits.load(finished)
    fitted = source_at(finished).calibrator()
    assert fitted is not None
    threshold = float(fitted.parameters["threshold"])
    lines = (finished / "metrics.jsonl").read_text().splitlines()
    rows = {row["source"]: row for row in map(json.loads, lines)}
    file = pd.read_csv(
        finished / "calibrators" / "conformal-alpha-0.25" / "sets.csv", dtype={"of": str}
    )
    table = file.set_index("of")
    assert list(table.index) == ["server-test", "0", "1"]
    hits, sizes = {}, {}
    for name, part in {**saved.central, **saved.test}.items():
        sets, labels = expected_sets(part, threshold), part.labels.numpy()
        hits[name], sizes[name] = sets[np.arange(len(labels)), labels], sets.sum(axis=1)
        assert table.loc[name, "images"] == len(labels)
        assert table.loc[name, "coverage"] == pytest.approx(hits[name].mean())
        assert table.loc[name, "set_size"] == pytest.approx(sizes[name].mean())
    central, pooled = rows["server-test-calibrated"], rows["clients-test-calibrated"]
    assert central["coverage"] == pytest.approx(hits["server-test"].mean())
    assert central["coverage_low"] < central["coverage"] <= central["coverage_high"]
    both = np.concatenate([hits["0"], hits["1"]])
    assert pooled["coverage"] == pytest.approx(both.mean())
    each = [hits["0"].mean(), hits["1"].mean()]
    assert rows["clients-test-mean-calibrated"]["coverage"] == pytest.approx(np.mean(each))
    assert rows["clients-test-worst-calibrated"]["coverage"] == pytest.approx(min(each))
    assert "coverage" not in rows["server-test"]
    summary = (finished / "summary.md").read_text()
    assert "## Sets of classes" in summary
    assert f"{central['set_size']:.2f}" in summary


def test_confidence_is_left_as_it_was(finished: Path) -> None:
    lines = (finished / "metrics.jsonl").read_text().splitlines()
    rows = {row["source"]: row for row in map(json.loads, lines)}
    before, after = rows["server-test"], rows["server-test-calibrated"]
    assert {name: after[name] for name in ("accuracy", "ece", "nll")} == pytest.approx(
        {name: before[name] for name in ("accuracy", "ece", "nll")}
    )


def test_fitted_afterwards_it_is_the_same(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    before = source_at(run).calibrator()
    sets = (run / "calibrators" / "conformal-alpha-0.25" / "sets.csv").read_text()
    shutil.rmtree(run / "calibrators")
    calibrate(run, SPEC)
    after = source_at(run).calibrator()
    assert before is not None
    assert after is not None
    assert torch.equal(before.parameters["threshold"], after.parameters["threshold"])
    assert (run / "calibrators" / "conformal-alpha-0.25" / "sets.csv").read_text() == sets
    assert "mean set size" in capsys.readouterr().out


def test_predict_and_evaluate_show_the_sets(finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "grey.png"
    Image.new("RGB", (40, 40), (90, 120, 60)).save(path)
    found = CliRunner().invoke(cli, ["predict", str(finished), str(path), "--json"])
    row = json.loads(found.stdout.splitlines()[-1])["images"][0]
    assert row["set"][0] == row["class"]
    assert "not calibrated, sets are of conformal(alpha=0.25)" in found.output
    found = CliRunner().invoke(cli, ["evaluate", str(finished), "--json"])
    models = json.loads(found.stdout.splitlines()[-1])["parts"]["test"]
    lines = (finished / "metrics.jsonl").read_text().splitlines()
    rows = {row["source"]: row for row in map(json.loads, lines)}
    wanted = rows["server-test-calibrated"]
    assert models["calibrated"]["coverage"] == pytest.approx(wanted["coverage"])
    assert models["calibrated"]["set_size"] == pytest.approx(wanted["set_size"])
    assert "coverage" not in models["tuned"]


def test_where_images_lie_on_the_nodes_their_sets_are_those_the_server_would_find(
    finished: Path, tmp_path: Path
) -> None:
    run = run_small(
        tmp_path, clients=2, num_rounds=1, calibrator=SPEC, calibration_fraction=0.3,
        evaluate_on="nodes", callbacks="none",
    )  # fmt: skip
    both = []
    for folder in (run, finished):
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        rows = {row["source"]: row for row in map(json.loads, lines)}
        names = ("coverage", "coverage_low", "coverage_high", "set_size")
        both.append(
            {
                source: {name: row[name] for name in names if name in row}
                for source, row in rows.items()
                if source.endswith("-calibrated")
            }
        )
        table = (folder / "calibrators" / "conformal-alpha-0.25" / "sets.csv").read_text()
        both[-1]["file"] = table
    assert both[0] == both[1]
    assert 0 < both[0]["clients-test-worst-calibrated"]["coverage"] <= 1


def test_a_chain_is_fitted_in_the_federation_and_told_by_predict(tmp_path: Path) -> None:
    spec = "conformal(score='aps', alpha=0.25, after='temperature')"
    run = run_small(
        tmp_path, clients=2, num_rounds=1, calibrator=spec, calibration_fraction=0.3,
        callbacks="none",
    )  # fmt: skip
    saved, fitted = SavedLogits.load(run), source_at(run).calibrator()
    assert fitted is not None
    alone = fit_saved(build_calibrator("temperature"), saved).parameters["inverse_temperature"]
    assert float(fitted.parameters["before.inverse_temperature"]) == pytest.approx(float(alone))
    assert float(alone) != 1
    lines = (run / "metrics.jsonl").read_text().splitlines()
    row = {row["source"]: row for row in map(json.loads, lines)}["server-test-calibrated"]
    part = saved.central["server-test"]
    p = softmax(float(alone) * part.logits.double().numpy(), axis=1)
    nll = -np.log(p[np.arange(len(p)), part.labels]).mean()
    assert row["nll"] == pytest.approx(nll, rel=1e-5)
    assert 0 < row["coverage"] <= 1
    Image.new("RGB", (40, 40), (90, 120, 60)).save(tmp_path / "grey.png")
    found = CliRunner().invoke(cli, ["predict", str(run), str(tmp_path / "grey.png")])
    assert "Confidence is calibrated, sets are of conformal" in found.output
