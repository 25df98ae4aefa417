"""Runs side by side: rows, means, marks, tests, targets and every format read by its own reader."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from finished_runs import finished_run, finished_sweep, logits, metrics_of
from fl2ora.calibration.calibrators.files import save_calibrator
from fl2ora.calibration.calibrators.temperature import Temperature
from fl2ora.calibration.comparison import compare_on_same_examples
from fl2ora.calibration.metrics.table import METRICS, chosen_metrics
from fl2ora.calibration.predictions import blocks_of_logits, scores_of
from fl2ora.experiment.errors import UserError
from fl2ora.reporting.against_baseline import against_baseline, baseline_from
from fl2ora.reporting.collected_runs import collect
from fl2ora.reporting.comparison import metrics_of as chosen_of
from fl2ora.reporting.comparison import ranks, summarised, target_from
from fl2ora.reporting.comparison_costs import cost_of
from fl2ora.reporting.comparison_text import (
    Cell,
    TextTable,
    baseline_table,
    latex,
    markdown,
    summary_table,
    write,
)
from fl2ora.reporting.saved_scores import saved_scores

SOURCE = "server-test"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_sweep(tmp_path_factory.mktemp("sweeps") / "grid")


def summary(folder: Path, metrics: str = "default", **more: Any) -> pd.DataFrame:
    return summarised(collect([folder]), chosen_metrics(metrics), SOURCE, **more)


def test_a_row_is_mean_and_sample_deviation_over_the_seeds(sweep: Path) -> None:
    table = summary(sweep)
    assert table["method"].tolist() == ["zero-shot", "lora", "lora", "bitfit", "bitfit"]
    assert table["seeds"].tolist() == [1, 3, 3, 3, 2]
    for place in (0, 3):
        found = [metrics_of(*logits(3.0 + 3 * place, 0.5 + place / 10, seed + 1))
                 for seed in range(3) if (place, seed) != (3, 0)]  # fmt: skip
        for name in ("accuracy", "ece", "nll", "mce", "mce_count"):
            values = np.array([row[name] for row in found])
            assert table[name][place + 1] == pytest.approx(values.mean())
            assert table[f"{name}_sd"][place + 1] == pytest.approx(values.std(ddof=1))
    assert table["ece"][0] == pytest.approx(metrics_of(*logits(9.0, 1.0))["ece"])
    assert math.isnan(table["ece_sd"][0])


def test_what_is_missing_is_noted(sweep: Path) -> None:
    collection = collect([sweep])
    (note,) = collection.notes
    assert note.startswith("failed: method=bitfit, loss=cross_entropy + 2*dca, seed 0: a <reason>")
    assert collection.choices[0].chosen == 0.1


def test_plain_runs_are_told_apart_by_the_keys_in_which_they_differ(tmp_path: Path) -> None:
    runs = [
        finished_run(tmp_path / "a", {"seed": 0, "batch-size": 16, "output-dir": "/x"}),
        finished_run(tmp_path / "b", {"seed": 1, "batch-size": 16}),
        finished_run(tmp_path / "c", {"seed": 0, "batch-size": 32}),
    ]
    collection = collect(runs)
    assert collection.axes == ("batch-size",)
    assert {labels: len(found) for labels, found in collection.groups().items()} == {
        ("16",): 2, ("32",): 1,
    }  # fmt: skip
    assert collect(runs[:2]).axes == ("run",)
    other = finished_run(tmp_path / "d", {"seed": 2, "batch-size": 16}, code="fedcba9876543210")
    assert collect([*runs, other]).axes == ("batch-size", "code"), "two codes are never averaged"


def test_folders_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "a")
    again = finished_run(tmp_path / "b")
    with pytest.raises(UserError, match="are the same run, seed 0 and all"):
        collect([run, again])
    (tmp_path / "empty").mkdir()
    for name in ("empty", "nowhere"):
        with pytest.raises(UserError, match=f"{name}: expected the folder of a finished run or of"):
            collect([tmp_path / name])
    (again / "events.jsonl").write_text('{"event": "failed"}\n')
    with pytest.raises(UserError, match="expected the folder of a finished run"):
        collect([again])
    record = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="the run left no metrics"):
        collect([run])
    (run / "metrics.jsonl").write_text(record)
    content = json.loads((run / "run.json").read_text())
    content["config"]["seed"] = "x"
    (run / "run.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"config: seed: expected a whole number, found 'x'"):
        collect([run])
    (run / "run.json").write_text("[")
    with pytest.raises(UserError, match=r"run\.json: expected a run's description"):
        collect([run])
    (run / "run.json").unlink()
    os.mkfifo(run / "run.json")
    with pytest.raises(UserError, match=r"run\.json is not a file"):
        collect([run])
    (tmp_path / "sweep.json").write_text('{"cells": [{"x": 1}]}')
    with pytest.raises(UserError, match=r"sweep\.json: expected the record of a sweep"):
        collect([tmp_path])


@pytest.mark.parametrize(
    ("more", "axes"),
    [({}, ("method", "dataset")), ({"method": "bitfit"}, ("method", "dataset"))],
)
def test_the_untuned_model_is_told_from_runs_that_differ_in_their_images(
    tmp_path: Path, more: dict[str, Any], axes: tuple[str, ...]
) -> None:
    first = finished_run(tmp_path / "a", {"dataset": "shapes(train=10)"})
    second = finished_run(tmp_path / "b", {"dataset": "shapes(train=20)", **more})
    collection = collect([first, second])
    assert collection.axes == axes
    table = summarised(collection, METRICS[:4], SOURCE)
    assert table["method"].tolist() == ["zero-shot"] * 2 + ["lora", more.get("method", "lora")]
    assert table["dataset"].tolist() == ["shapes(train=10)", "shapes(train=20)"] * 2
    text = summary_table(table, collection.axes, METRICS[:4], None)
    assert len({tuple(cell.text for cell in row[: text.labels]) for row in text.rows}) == 4


@pytest.mark.parametrize("axes", [["dataset"], ["dataset", "method"]])
def test_a_sweep_over_data_sets_keeps_its_labels(tmp_path: Path, axes: list[str]) -> None:
    cells = []
    for label, size in (("few", 10), ("many", 20)):
        finished_run(tmp_path / label, {"dataset": f"shapes(train={size})"}, sharpness=size / 4)
        labels = {axis: label if axis == "dataset" else "lora" for axis in axes}
        cells.append({"labels": labels, "seed": 0, "folder": label, "state": "done"})
    record = {"sweep": {}, "code": "", "axes": axes, "cells": cells, "choices": []}
    (tmp_path / "sweep.json").write_text(json.dumps(record))
    table = summarised(collect([tmp_path]), METRICS[:4], SOURCE)
    assert table["dataset"].tolist() == ["few", "many", "few", "many"]
    assert table["method"].tolist() == ["zero-shot", "zero-shot", "lora", "lora"]


def test_the_best_and_the_second_best_are_marked_on_the_same_images_alone(tmp_path: Path) -> None:
    runs = []
    for number, (dataset, sharpness) in enumerate(
        [("shapes(train=10)", 3.0), ("shapes(train=10)", 12.0), ("shapes(train=20)", 40.0)]
    ):
        settings = {"dataset": dataset, "batch-size": number + 1}
        runs.append(finished_run(tmp_path / str(number), settings, sharpness=sharpness))
    table = summarised(collect(runs), METRICS[:4], SOURCE)
    ece = next(metric for metric in METRICS if metric.name == "ece")
    found = ranks(table, ece)
    for _, rows in table.groupby("dataset"):
        ordered = rows["ece"].sort_values().index
        assert found[ordered[0]] == 1
        assert found[ordered[1]] == 2
        assert found[ordered[2:]].isna().all()
    accuracy = METRICS[0]
    equal = table.assign(accuracy=[0.5, 0.5, 0.4, 0.3, 0.9])
    assert ranks(equal[equal["dataset"] == equal["dataset"][0]], accuracy).max() <= 2


def test_mce_is_never_without_its_number_of_images(sweep: Path) -> None:
    collection = collect([sweep])
    for text in ("mce", "default", None):
        metrics = chosen_of(collection, text)
        shown = summary_table(
            summarised(collection, metrics, SOURCE), collection.axes, metrics, None
        )
        column = shown.head.index("MCE (%)")
        assert all(re.search(r" \([\d,.]+\)$", row[column].text) for row in shown.rows)
        assert "images in the bin of MCE" not in shown.head


def test_differences_are_tested_on_the_same_images_and_over_seeds(sweep: Path) -> None:
    collection = collect([sweep])
    baseline = baseline_from("method=lora", collection)
    table, notes = against_baseline(collection, baseline, SOURCE)
    assert notes == []
    assert table["method"].tolist() == ["bitfit", "bitfit"]
    assert table["loss"].tolist() == ["cross_entropy", "cross_entropy + 2*dca"]
    assert table["seeds"].tolist() == [3, 2]
    ours = [metrics_of(*logits(9.0, 0.7, seed + 1))["ece"] for seed in range(3)]
    theirs = [metrics_of(*logits(3.0, 0.5, seed + 1))["ece"] for seed in range(3)]
    assert table["ece_difference"][0] == pytest.approx(np.mean(ours) - np.mean(theirs))
    raw = [stats.wilcoxon(np.array(ours) - np.array(theirs)).pvalue, 0.5]
    assert table["ece_p_seeds"][0] == pytest.approx(min(1.0, 2 * min(raw)))
    of_seeds = [
        compare_on_same_examples(
            scores_of(blocks_of_logits(*logits(9.0, 0.7, seed + 1))),
            scores_of(blocks_of_logits(*logits(3.0, 0.5, seed + 1))),
        ).p_value
        for seed in range(3)
    ]
    assert table["ece_p_images"].min() <= min(1.0, 2 * 2 * np.median(of_seeds)) + 1e-12


def test_equal_models_do_not_differ_and_a_clear_difference_is_found(tmp_path: Path) -> None:
    same = [finished_run(tmp_path / f"s{b}", {"batch-size": b}) for b in (1, 2)]
    worse = finished_run(tmp_path / "worse", {"batch-size": 3}, noise=2.0)
    collection = collect([*same, worse])
    table, _ = against_baseline(collection, {"batch-size": "1"}, SOURCE)
    assert table["accuracy_p_images"].tolist() == pytest.approx([1.0, 2 / 4001])
    assert table["nll_p_images"][0] == 1.0
    assert table["ece_p_images"][1] < 0.01
    assert table["accuracy_difference"][1] < -0.1
    assert table["accuracy_p_seeds"].isna().all(), "of one seed nothing can be said"


def test_zero_shot_is_the_baseline_of_every_row(sweep: Path) -> None:
    collection = collect([sweep])
    table, _ = against_baseline(collection, baseline_from("zero-shot", collection), SOURCE)
    assert len(table) == 4
    assert set(table["baseline"]) == {"zero-shot"}
    start = metrics_of(*logits(9.0, 1.0))
    expected = summary(sweep)["accuracy"][1] - start["accuracy"]
    assert table["accuracy_difference"][0] == pytest.approx(expected)


def test_without_logits_there_is_no_test_over_images_but_a_note(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "a", saved=False)
    table, (note,) = against_baseline(collect([run]), {}, SOURCE)
    assert table["nll_p_images"].isna().all()
    assert "no test over images" in note
    assert "logits.safetensors" in note
    _, (note,) = against_baseline(collect([finished_run(tmp_path / "b")]), {}, "clients-test")
    assert "no logits of clients-test were saved" in note


def test_a_calibrated_run_is_judged_by_its_calibrated_predictions(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "a", {"calibrator": "temperature"}, sharpness=12.0)
    with pytest.raises(UserError, match="expected the fitted calibrator 'temperature'"):
        saved_scores(run, "temperature", SOURCE)
    state = Temperature().start(4).parameters
    parameters = {name: torch.full_like(value, math.log(4.0)) for name, value in state.items()}
    save_calibrator(run / "calibrators" / "temperature", "temperature", parameters, 4)
    found = saved_scores(run, "temperature", SOURCE)
    values, labels = logits(12.0, 0.6, 1)
    expected = Temperature().apply(values, parameters).exp()
    assert found.final.confidence == pytest.approx(expected.max(dim=1).values.numpy())
    assert found.final.correct.mean() == scores_of(blocks_of_logits(values, labels)).correct.mean()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "metod=lora",
            "expected zero-shot or axis=label with one of loss, method, found 'metod=lo",
        ),
        ("lora", "found 'lora'"),
        ("method=lroa", "--baseline: method: expected one of lora, bitfit, found 'lroa'"),
        ("loss=cross", "found 'cross'"),
    ],
)
def test_a_baseline_that_is_none_is_refused(sweep: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        baseline_from(text, collect([sweep]))
    assert message in str(caught.value)


def test_the_cost_of_a_target_is_rounds_and_bytes_of_all_clients(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "a")
    (found,) = collect([run]).runs
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    accuracy = [row["accuracy"] for row in rows if row["source"] == SOURCE]
    assert accuracy[0] < accuracy[1]
    assert cost_of(found, SOURCE, target_from(f"accuracy={accuracy[1]}")) == (1, 3 * 750)
    assert cost_of(found, SOURCE, target_from(f"nll={rows[2]['nll']}")) == (2, 2 * 3 * 750)
    assert cost_of(found, SOURCE, target_from("accuracy=1.1")) is None
    table = summary(run, target=target_from("accuracy=1.1"))
    assert table["target_reached"].tolist()[1] == 0
    assert math.isnan(table["target_bytes"][1])


@pytest.mark.parametrize("text", ["speed=3", "accuracy", "accuracy=fast", "accuracy=inf", "=1"])
def test_a_target_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--target: expected"):
        target_from(text)


def test_sources_and_metrics_that_are_not_there_are_refused(sweep: Path) -> None:
    collection = collect([sweep])
    with pytest.raises(UserError, match="--source: expected one of server-test, training"):
        summarised(collection, METRICS[:1], "server-tset")
    with pytest.raises(UserError, match="--metrics: expected what the runs measured"):
        chosen_of(collection, "smooth_ece")
    with pytest.raises(UserError, match="did you mean 'accuracy'"):
        chosen_of(collection, "acuracy")


def tables_of(sweep: Path) -> tuple[list[TextTable], dict[str, pd.DataFrame]]:
    collection = collect([sweep])
    metrics = chosen_of(collection, None)
    numbers = summarised(collection, metrics, SOURCE)
    tests, _ = against_baseline(collection, {}, SOURCE)
    texts = [summary_table(numbers, collection.axes, metrics, None)]
    return [*texts, baseline_table(tests, collection.axes)], {"summary": numbers, "baseline": tests}


def test_csv_and_parquet_hold_the_same_numbers(sweep: Path, tmp_path: Path) -> None:
    texts, numbers = tables_of(sweep)
    csv = write(tmp_path / "t.csv", "csv", texts, numbers)
    parquet = write(tmp_path / "t.parquet", "parquet", texts, numbers)
    assert [path.name for path in csv] == ["t.csv", "t-baseline.csv"]
    for path, frame in zip(csv, numbers.values(), strict=True):
        found = pd.read_csv(path)
        found["loss"] = found["loss"].fillna("")  # of zero-shot
        pd.testing.assert_frame_equal(found, frame, check_dtype=False)
    for path, frame in zip(parquet, numbers.values(), strict=True):
        pd.testing.assert_frame_equal(pd.read_parquet(path), frame, check_dtype=False)


def test_markdown_has_a_cell_for_every_column_and_marks(sweep: Path) -> None:
    (first, _), _ = tables_of(sweep)
    lines = markdown(first).splitlines()[2:]
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
    assert widths == {len(first.head) + 1}
    assert any("**" in line for line in lines[2:])
    odd = TextTable("t", ["a|b"], [[Cell("x|*y*_z_<b>")]], 1)
    assert "x\\|\\*y\\*\\_z\\_&lt;b>" in markdown(odd)


def test_latex_is_booktabs_with_everything_escaped(sweep: Path) -> None:
    (first, _), _ = tables_of(sweep)
    text = latex(first)
    assert text.index(r"\toprule") < text.index(r"\midrule") < text.index(r"\bottomrule")
    body = text[text.index(r"\midrule") + 8 : text.index(r"\bottomrule")].strip().splitlines()
    assert len(body) == len(first.rows)
    assert all(line.count("&") == len(first.head) - 1 for line in body)
    assert r"\textbf{" in text
    assert r"\underline{" in text
    odd = latex(TextTable("t", [r"a_b"], [[Cell("50 % & #1 ~ ^ {x} \\ ± Δ")]], 1))
    expected = (r"50 \% \& \#1 \textasciitilde{} \textasciicircum{} \{x\} \textbackslash{} "
                r"$\pm$ $\Delta$")  # fmt: skip
    assert expected in odd


def test_without_pyarrow_there_is_no_parquet_and_nothing_half_written(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, numbers = tables_of(sweep)
    monkeypatch.setattr("fl2ora.reporting.comparison_text.has_parquet", lambda: False)
    with pytest.raises(UserError, match="Parquet needs pyarrow"):
        write(tmp_path / "t.parquet", "parquet", texts, numbers)
    assert list(tmp_path.iterdir()) == []
