"""The study of docs/study.md: its pictures out of archives, and what it computes from runs."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks.study import pictures
from benchmarks.study.analysis import _metrics, interval, results, tables
from finished_runs import finished_sweep
from fl2ora.calibration.predictions import Scores
from fl2ora.reporting.collected_runs import collect
from fl2ora.reporting.sweep_folder import OPEN, CellRecord, SweepRecord

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10">{}</svg>'
SQUARE = '<rect width="5" height="10" fill="#ff0000"/>'
LIST = """hexcode,group,subgroups,annotation,tags,skintone
1F408,animals-nature,animal-mammal,Cat,"pet, kitten",
1F986,animals-nature,animal-bird,duck,bird,
1F1E6,flags,flag,flag: A,,
1F44B-1F3FB,people-body,hand,waving,,1
"""


def png(colour: str) -> bytes:
    data = io.BytesIO()
    Image.new("RGBA", (4, 4), colour).save(data, "png")
    return data.getvalue()


def archive(folder: Path, package: str, files: dict[str, bytes]) -> str:
    path = folder / f"{package}-1.0.0.tgz"
    with tarfile.open(path, "w:gz") as file:
        for name, data in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return str(path)


@pytest.fixture
def archives(tmp_path: Path) -> list[str]:
    icons = json.dumps({"icons": {"cat": {"body": SQUARE}}, "width": 10, "height": 10}).encode()
    drawn = {f"{kind}/svg/1F408.svg": SVG.format(SQUARE).encode() for kind in ("color", "black")}
    photos = {
        "google": {f"img/google/64/{code}.png": png("blue") for code in ("1f408", "1f986")},
        "twitter": {"img/twitter/64/1f408.png": png("green")},
    }
    return [
        archive(tmp_path, "openmoji", {"data/openmoji.csv": LIST.encode(), **drawn}),
        archive(tmp_path, "emoji-datasource-google", photos["google"]),
        archive(tmp_path, "emoji-datasource-twitter", photos["twitter"]),
        archive(tmp_path, "lobehub-fluent-emoji-3d", {"assets/1f986.webp": png("red")}),
        archive(tmp_path, "iconify-json-noto-v1", {"icons.json": icons}),
        archive(tmp_path, "iconify-json-emojione-v1", {"icons.json": b'{"icons": {}}'}),
    ]


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_pictures_are_sorted_by_what_pre_training_may_see(
    archives: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "emoji"
    monkeypatch.setattr("sys.argv", ["pictures", *archives, "--out", str(out)])
    pictures.main()
    captions = lines(out / "captions" / "metadata.csv")
    assert {line["file_name"] for line in captions} == {
        f"{vendor}/1F408.png" for vendor in ("noto", "twemoji", "blobs")
    }
    assert {line["text"] for line in captions} == {"cat", "mammal", "pet", "kitten"}
    tabled = {
        path.stem: {(line["domain"], line["label"]) for line in lines(path)}
        for path in out.glob("*-classes.csv")
    }
    assert tabled == {
        "seen-vendors-seen-classes": {(v, "mammal") for v in ("noto", "twemoji", "blobs")},
        "seen-vendors-new-classes": {("noto", "bird")},
        "new-vendors-seen-classes": {("openmoji", "mammal"), ("outlines", "mammal")},
        "new-vendors-new-classes": {("fluent", "bird")},
    }
    drawn = np.asarray(Image.open(out / "pictures" / "blobs" / "1F408.png"))
    assert drawn.shape == (64, 64, 3)
    assert drawn[32, 10].tolist() == [255, 0, 0]
    assert drawn[32, 54].tolist() == [255, 255, 255]
    splits = {line["split"] for path in out.glob("*-seen-*.csv") for line in lines(path)}
    assert len(splits) == 1  # all vendors' cats together


def test_a_package_that_is_missing_is_named(
    archives: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["pictures", *archives[1:]])
    with pytest.raises(SystemExit):
        pictures.main()
    assert "found none of openmoji" in capsys.readouterr().err


def test_metrics_of_four_images_by_hand() -> None:
    """Two bins: confidence .9 twice, one right; .4 twice, both right."""
    scores = Scores(
        confidence=np.array([0.9, 0.9, 0.4, 0.4]),
        correct=np.array([1.0, 0.0, 1.0, 1.0]),
        predicted=np.zeros(4, np.int64),
        nll=np.array([1.0, 2.0, 3.0, 4.0]),
        brier=np.zeros(4),
    )
    found = _metrics(scores)
    assert found["accuracy"] == 0.75
    assert found["ece"] == pytest.approx((0.8 + 1.2) / 4)
    assert found["over"] == pytest.approx(0.65 - 0.75)
    assert found["nll"] == 2.5
    assert found["smooth_ece"] < found["ece"] - 0.01  # gaps of both signs, smoothed together


def test_the_smooth_ece_of_one_confidence_is_its_gap() -> None:
    scores = Scores(
        confidence=np.full(10, 0.7),
        correct=np.repeat([1.0, 0.0], [3, 7]),
        predicted=np.zeros(10, np.int64),
        nll=np.ones(10),
        brier=np.zeros(10),
    )
    assert _metrics(scores)["smooth_ece"] == pytest.approx(0.7 - 0.3, abs=1e-3)


def test_an_interval_is_students() -> None:
    mean, low, high = interval([1.0, 2.0, 3.0])
    assert (mean, high - mean) == (2.0, pytest.approx(4.30265 / 3**0.5, rel=1e-5))
    assert low == pytest.approx(4 - high)
    assert np.isnan(interval([1.0])[1])


def test_tables_pair_each_run_with_its_own_zero_shot() -> None:
    zero, final = [0.10, 0.20], [0.11, 0.23]
    table = pd.DataFrame(
        {
            "sweep": "methods", "method": ["lora", "lora"], "shots": "4", "skew": "0.1",
            "training": None, "strategy": None, "loss": None, "learning-rate": 0.1,
            "protocol": None, "seed": [0, 1], "part": "server-test", "accuracy": 0.5,
            "smooth_ece": final,
            "ece": 0.1, "over": 0.05, "nll": [1.0, 1.5], "zero_smooth_ece": zero,
        }
    )  # fmt: skip
    found = tables(pd.concat([table, table.assign(method="coop")]))
    numbers = (
        "15.0 | 50.0 ± 0.0 | 17.0 ± 8.5 | +2.0 [-10.7, +14.7] | 10.0 ± 0.0 | 5.0 ± 0.0 | 1.250"
    )
    assert [line for line in found.splitlines() if line.startswith("| ")] == [
        "| method | runs | zero-shot smooth ECE | accuracy | smooth ECE | its change "
        "| ECE | over | NLL |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        f"| lora | 2 | {numbers} |",
        f"| coop | 2 | {numbers} |",
    ]


def test_results_are_what_the_runs_have_written(tmp_path: Path) -> None:
    """Every finished run of a sweep, with its metrics as it measured them: after, and before."""
    finished_sweep(tmp_path / "losses", seeds=2)
    (tmp_path / "rates").mkdir()
    cell = CellRecord({}, seed=0, folder="cells/0-0", state=OPEN)
    SweepRecord({}, "", [], [cell], []).save(tmp_path / "rates")
    found = results(tmp_path)
    assert found["sweep"].tolist() == ["losses"] * len(found)
    assert found["part"].unique().tolist() == ["server-test"]
    assert len(found.drop_duplicates(["method", "loss", "seed"])) == len(found) == 7  # one failed
    for row, run in zip(found.to_dict("records"), collect([tmp_path / "losses"]).runs, strict=True):
        assert (row["method"], row["loss"]) == (run.config["method"], run.config["loss"])
        assert (row["seed"], row["learning-rate"]) == (run.seed, run.config["learning-rate"])
        measured = run.metrics[run.metrics["source"] == "server-test"].set_index("round")
        for prefix, number in (("", 2), ("zero_", 0)):
            for name in ("accuracy", "ece", "nll"):
                assert row[prefix + name] == pytest.approx(measured.loc[number, name], rel=1e-5)
