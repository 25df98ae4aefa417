"""Sets of classes, reliability of rows and bytes in a report, against numbers of the files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from finished_runs import finished_run, logits
from fl2ora.calibration.calibrators.files import save_calibrator
from fl2ora.calibration.conformal.set_sums import SetSums
from fl2ora.calibration.metrics.binned import ece_of
from fl2ora.experiment.errors import UserError
from fl2ora.reporting import reliability_rows as rows_module
from fl2ora.reporting.collected_runs import Collection, collect
from fl2ora.reporting.comparison import final_row
from fl2ora.reporting.comparison_costs import bytes_until
from fl2ora.reporting.comparison_text import TextTable
from fl2ora.reporting.comparison_values import MEGABYTES, estimate
from fl2ora.reporting.plot_style import new_figure
from fl2ora.reporting.reliability_rows import ROWS_SHOWN, reliability_rows, shown_rows
from fl2ora.reporting.report import write_report
from fl2ora.reporting.report_figures import figures_of
from fl2ora.reporting.report_sets import rows_table, run_table, sets_of
from fl2ora.reporting.set_tables import write_sets

SPEC = "conformal(alpha=0.2)"
SUMS = {
    "server-test": SetSums(200, 170, 300),
    "0": SetSums(40, 30, 70),
    "clinic-b": SetSums(60, 54, 66),
    "empty": SetSums(),
}


def with_sets(run: Path) -> Path:
    folder = run / "calibrators" / "conformal-alpha-0.2"
    parameters = {"above": 0.1, "threshold": 0.6, "num_classes": 4.0}
    tensors = {k: torch.tensor(v, dtype=torch.float64) for k, v in parameters.items()}
    save_calibrator(folder, SPEC, tensors, 4)
    write_sets(folder, SUMS)
    return folder


def texts(table: TextTable) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def test_a_run_shows_coverage_of_its_parts_of_all_clients_and_of_each(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    with_sets(run)
    (sets,) = sets_of(run)
    assert sets.wanted == pytest.approx(0.8)
    assert list(sets.rows) == ["server-test", "clients-test", "0", "clinic-b"]
    assert dict(sets.rows["clients-test"]) == {"images": 100.0, **SetSums(100, 84, 136).metrics()}
    table = run_table(sets)
    assert table.title == f"Sets of classes by {SPEC}: how many hold the label, 80 % wanted"
    found = texts(table)
    assert [row[0] for row in found][2:] == ["client 0", "client clinic-b"]
    assert found[0][1:] == ["200", "85.0", "79.3 to 89.6", "1.50"]  # scipy.stats.binomtest
    assert [row[2] for row in found] == ["85.0", "84.0", "75.0", "90.0"]
    names = [figure.name for figure in figures_of(collect([run]))]
    assert names == ["reliability", "curves", "sets"]
    page = write_report(collect([run]), tmp_path / "page", {}).read_text(encoding="utf-8")
    assert "client clinic-b" in page
    assert (tmp_path / "page" / "sets.svg").is_file()


def test_a_run_without_sets_has_no_table_of_them(tmp_path: Path) -> None:
    assert sets_of(finished_run(tmp_path / "run")) == []


HEAD = "of,images,coverage,coverage_low,coverage_high,set_size\n"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "of,images\n0,3\n",
        "\0",
        "of,images,coverage\nx,y,z\n",
        f"{HEAD}0,inf,1,1,1,1\n",
        f"{HEAD}0,0,1,1,1,1\n",
        f"{HEAD}0,10,5,1,1,1\n",
        f"{HEAD}0,10,0.5,0.6,1,1\n",
        f"{HEAD}0,10,0.5,0.4,1.1,1\n",
        f"{HEAD}0,10,0.5,0.4,0.6,-1\n",
        f"{HEAD}server-test,10,nan,nan,nan,1\n",
    ],
)
def test_a_damaged_file_of_sets_is_named(tmp_path: Path, text: str) -> None:
    run = finished_run(tmp_path / "run")
    (with_sets(run) / "sets.csv").write_text(text)
    with pytest.raises(UserError, match=r"sets\.csv: expected coverage and size of sets"):
        sets_of(run)


def test_of_a_calibrator_that_cannot_be_built_the_wanted_share_is_left_out(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    description = with_sets(run) / "calibrator.json"
    said = json.loads(description.read_text())
    description.write_text(json.dumps({**said, "spec": "my_lab:Sets()"}))
    (sets,) = sets_of(run)
    assert math.isnan(sets.wanted)
    assert run_table(sets).title == "Sets of classes by my_lab:Sets(): how many hold the label"


def append(run: Path, *rows: dict[str, Any]) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps({"round": 2, **row}) + "\n" for row in rows)


def two_rows(root: Path) -> Collection:
    """Two seeds with sets, and two of another row without."""
    for seed, coverage in ((0, 0.9), (1, 0.8)):
        run = finished_run(root / f"sets{seed}", {"calibrator": SPEC, "seed": seed})
        append(
            run,
            {"source": "server-test-calibrated", "ece": 0.1, "coverage": coverage, "set_size": 2.0},
            {"source": "clients-test-calibrated", "coverage": 0.75, "set_size": 1.5},
            {"source": "clients-test-worst-calibrated", "coverage": coverage - 0.3},
        )
        finished_run(root / f"none{seed}", {"seed": seed})
    return collect(sorted(root.iterdir()))


def test_rows_of_a_comparison_have_mean_and_spread_of_their_coverage(tmp_path: Path) -> None:
    table = rows_table(two_rows(tmp_path), "server-test")
    assert table is not None
    (row,) = texts(table)
    # sd of 80 and 90 is 7.07
    assert row[-5:] == ["2", "85.00 ± 7.07", "2.00 ± 0.00", "75.00 ± 0.00", "55.00 ± 7.07"]
    assert SPEC in row
    other = finished_run(tmp_path / "other", {"num-rounds": 3})
    assert rows_table(collect([other]), "server-test") is None


def test_rows_have_panels_of_their_first_run_and_of_zero_shot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished_run(tmp_path / "a", {"method": "lora", "seed": 0})
    finished_run(tmp_path / "b", {"method": "lora", "seed": 1})
    finished_run(tmp_path / "c", {"method": "bitfit"}, sharpness=9.0)
    finished_run(tmp_path / "d", {"method": "coop"}, saved=False)
    collection = collect(sorted(tmp_path.iterdir()))
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(rows_module, "draw_reliability", lambda _, panels: drawn.update(panels))
    drawing = reliability_rows(collection.groups(), "server-test")
    assert drawing is not None
    with new_figure(2, 2) as figure:
        drawing[0](figure)
    assert list(drawn) == ["zero-shot", "lora", "bitfit"]
    for name, run in (("lora", "a"), ("bitfit", "c")):
        row = final_row(next(r for r in collection.runs if r.folder.name == run), "server-test")
        assert ece_of(drawn[name]) == pytest.approx(row["ece"], rel=1e-6)
        assert drawn[name].num_examples == len(logits(1.0, 1.0)[1])
    none = {key: runs for key, runs in collection.groups().items() if key == ("coop",)}
    assert reliability_rows(none, "server-test") is None


def test_of_many_rows_those_with_the_lowest_ece_of_each_choice_are_shown(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    for place, method in enumerate(("lora", "bitfit")):
        for rounds in range(2, 9):
            sharpness = 4.0 if (place, rounds) in ((0, 5), (1, 7)) else 30.0 - rounds
            settings = {"method": method, "num-rounds": rounds}
            finished_run(root / f"{place}-{rounds}", settings, sharpness=sharpness, saved=False)
    collection = collect(sorted(root.iterdir()))
    groups = collection.groups()
    assert len(groups) == 14 > ROWS_SHOWN
    by_method = {(labels[collection.axes.index("method")], *labels): runs
                 for labels, runs in groups.items()}  # fmt: skip
    eces = {key: final_row(runs[0], "server-test")["ece"] for key, runs in by_method.items()}
    expected = [
        min((k for k in eces if k[0] == m), key=eces.__getitem__) for m in ("lora", "bitfit")
    ]
    assert [key[-1] for key in expected] == ["5", "7"]
    assert list(shown_rows(by_method, "server-test")) == expected


def test_bytes_are_those_of_all_clients_and_rounds(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    (found,) = collect([run]).runs
    assert bytes_until(found) == 2 * 3 * (500 + 250)
    assert bytes_until(found, 1) == 3 * (500 + 250)
    mean, _, _ = estimate([found], MEGABYTES, "server-test")
    assert mean == pytest.approx(0.0045)
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(x for x in lines if "bytes_down" not in x))
    (found,) = collect([run]).runs
    assert math.isnan(bytes_until(found))
    names = {figure.name for figure in figures_of(two_rows(tmp_path / "two"))}
    assert names == {"accuracy-ece", "reliability", "curves", "bytes-ece"}
