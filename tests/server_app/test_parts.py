"""Runs with several held-out parts: each under its own name, with its own classes, everywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from fl2ora.calibration.calibrators.base import CalibrationContext, Calibrator
from fl2ora.clip_tuning.build import build_classifier
from fl2ora.clip_tuning.prediction import predict
from fl2ora.commands.calibrate import calibrate
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import load
from fl2ora.federated_data.datasets.base import Dataset
from fl2ora.federated_data.protocols.base import Federation, HeldOutPart, Protocol
from fl2ora.federated_data.shares import load_federation
from fl2ora.reporting.logits import SavedLogits
from fl2ora.reporting.tables import metrics_table
from fl2ora.server_app.metrics_by_source import mean_of_parts
from miniature_fashion import write_miniature
from misbehaving import Wrapped
from runs import SMALL, events, final_adapter, run_small

HALVES = ["server-test/base", "server-test/new", "server-test/harmonic-mean"]


def source(folder: Path, name: str) -> dict[str, Any]:
    """Return a source's metrics after the last round that has them."""
    rows = metrics_table(folder)
    found: dict[str, Any] = rows[rows["source"] == name].iloc[-1].dropna().to_dict()
    return found


def part(protocol: str, name: str) -> HeldOutPart:
    (found,) = (p for p in load_federation(SMALL["dataset"], protocol).parts if p.name == name)
    return found


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_small(
        tmp_path_factory.mktemp("halves"), 2, protocol="base_to_new", calibrator="temperature",
        calibration_fraction=0.3, callbacks="default", metrics="default + classwise_ece",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["base", "new"])
def test_each_half_is_measured_among_its_own_classes(halves: Path, name: str) -> None:
    held = part("base_to_new", name)
    alone = build_classifier("embedded", "lora", held.class_names, held.templates, SMALL["seed"])
    alone.restore(final_adapter(halves))
    logits = predict(alone, held.images.images)
    assert logits.shape == (len(held.images), 8)
    right = (logits.argmax(dim=1) == held.images.labels).double().mean()
    row = source(halves, f"server-test/{name}")
    assert row["accuracy"] == pytest.approx(float(right))
    nll = torch.nn.functional.cross_entropy(logits.double(), held.images.labels)
    assert row["nll"] == pytest.approx(float(nll), rel=1e-5)
    assert row["num_examples"] == len(held.images)
    assert row["ece_low"] <= row["ece"]


def test_the_harmonic_mean_is_a_row_of_its_own(halves: Path) -> None:
    rows = metrics_table(halves)
    for number in (0, 1, 2):
        of = rows[rows["round"] == number].set_index("source")["accuracy"]
        base, new = of["server-test/base"], of["server-test/new"]
        assert of["server-test/harmonic-mean"] == pytest.approx(2 * base * new / (base + new))
    assert source(halves, "server-test/harmonic-mean").keys() == {"round", "source", "accuracy"}


def test_every_part_stands_in_every_table_and_file(halves: Path) -> None:
    rows = metrics_table(halves)
    assert "server-test" not in set(rows["source"])
    for name in HALVES:
        assert {0, 1, 2} == set(rows[rows["source"] == name]["round"])
        assert list(rows[rows["source"] == f"{name}-calibrated"]["round"]) == [2]
    summary, card = (
        (halves / name).read_text(encoding="utf-8") for name in ("summary.md", "adapter/README.md")
    )
    assert "## All parts after the last round" in summary
    for name in HALVES:
        assert f"(`{name}`)" in summary
        assert f"({name})" in card
    for kind in ("reliability", "smooth"):
        for name in ("base", "new"):
            assert (halves / f"{kind}-{name}.png").exists()
            assert f"![{kind}-{name}]" in summary
        assert not (halves / f"{kind}.png").exists()
    classwise = pd.read_csv(halves / "classwise.csv")
    names = {s: set(classwise[classwise["source"] == s]["name"]) for s in HALVES[:2]}
    assert names["server-test/base"] == set(part("base_to_new", "base").class_names)
    assert names["server-test/new"] == set(part("base_to_new", "new").class_names)
    (data,) = events(halves, "data")
    assert data["parts"] == {f"server-test/{n}": len(part("base_to_new", n).images)
                             for n in ("base", "new")}  # fmt: skip
    assert data["test"] == sum(data["parts"].values()) == 64


def test_saved_logits_of_new_classes_come_with_their_features(halves: Path) -> None:
    saved = SavedLogits.load(halves)
    assert list(saved.central) == HALVES[:2]
    assert [scored.of_other_classes for scored in saved.central.values()] == [False, True]
    new = part("base_to_new", "new")
    alone = build_classifier("embedded", "lora", new.class_names, new.templates, SMALL["seed"])
    alone.restore(final_adapter(halves))
    with torch.inference_mode():
        text = alone.encode_classes()
    scored = saved.central["server-test/new"]
    assert scored.text is not None
    torch.testing.assert_close(scored.text, text)
    close = {"rtol": 0, "atol": 1e-4}
    torch.testing.assert_close(scored.logits, predict(alone, new.images.images), **close)
    plain = build_classifier("embedded", "zero_shot", new.class_names, new.templates, 0)
    torch.testing.assert_close(scored.zero_shot, predict(plain, new.images.images), **close)


def test_fl2ora_calibrate_finds_what_the_run_found(
    halves: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calibrate(halves, "temperature", as_json=True)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["metrics"]
    assert list(found)[:3] == HALVES
    for name in HALVES:
        for key, value in source(halves, f"{name}-calibrated").items():
            if key not in ("round", "source"):
                assert found[f"{name}-calibrated"][key] == pytest.approx(value, abs=1e-6), key
    assert (halves / "calibrators" / "temperature" / "reliability-new.png").exists()


def test_a_calibrator_of_the_tuned_classes_is_not_applied_to_others(tmp_path: Path) -> None:
    folder = run_small(
        tmp_path, 2, protocol="base_to_new", calibrator="vector", calibration_fraction=0.3,
        num_rounds=1,
    )  # fmt: skip
    sources = set(metrics_table(folder)["source"])
    assert "server-test/base-calibrated" in sources
    assert not sources & {"server-test/new-calibrated", "server-test/harmonic-mean-calibrated"}
    (said,) = events(folder, "not-calibrated")
    assert said["source"] == "server-test/new"
    assert said["reason"].startswith("its parameters belong to the 8 classes that were tuned on")
    assert said["reason"] in (folder / "summary.md").read_text(encoding="utf-8")


def test_dac_calibrates_new_classes_and_leaves_those_tuned_on(tmp_path: Path) -> None:
    folder = run_small(
        tmp_path, 2, protocol="base_to_new", calibrator="dac(base_distance=0.0)", learning_rate=1.0,
        num_rounds=1,
    )  # fmt: skip
    saved = SavedLogits.load(folder)
    new = saved.central["server-test/new"]
    context = CalibrationContext(
        None, new.text, new.zero_shot_text, saved.text_features, saved.zero_shot_text_features
    )
    log_p = load("dac(base_distance=0.0)", Calibrator).apply(new.logits, {}, context=context)
    nll = torch.nn.functional.nll_loss(log_p, new.labels)
    found = source(folder, "server-test/new-calibrated")
    assert found["nll"] == pytest.approx(float(nll), rel=1e-6)
    assert abs(found["nll"] - source(folder, "server-test/new")["nll"]) > 1e-6
    assert found["accuracy"] == source(folder, "server-test/new")["accuracy"]
    calibrate(folder, "dac")


def test_dac_leaves_the_classes_tuned_on_alone(tmp_path: Path) -> None:
    folder = run_small(tmp_path, 2, protocol="base_to_new", calibrator="dac", num_rounds=1)
    for name in ("server-test/base", "clients-test"):
        before, after = source(folder, name), source(folder, f"{name}-calibrated")
        assert after["nll"] == pytest.approx(before["nll"], rel=1e-5)
    plain = run_small(tmp_path / "plain", 2, num_rounds=0)
    with pytest.raises(UserError, match="'dac' corrects classes that are not trained on"):
        calibrate(plain, "dac")


@pytest.mark.parametrize("method", ["linear_probe", "tip_adapter", "coop(class_specific=True)"])
def test_methods_of_the_tuned_classes_are_refused_before_training(
    tmp_path: Path, method: str
) -> None:
    app = Wrapped()
    with pytest.raises(UserError, match="expected one whose tensors serve any classes"):
        run_small(tmp_path, 2, app, protocol="base_to_new", method=method)
    assert not app.received
    run_small(tmp_path / "fits", 2, protocol="in_domain", method=method, num_rounds=1)


def test_other_datasets_of_other_sizes_are_measured(tmp_path: Path) -> None:
    write_miniature(tmp_path)
    target = f"fashion_mnist(folder='{tmp_path}', validation=40)"
    folder = run_small(
        tmp_path, 2, protocol=f'cross_dataset(targets="{target}; {SMALL["dataset"]}")',
        num_rounds=1, calibrator="temperature",
    )  # fmt: skip
    rows = metrics_table(folder)
    last = rows[rows["round"] == 1].set_index("source")
    names = ["source", "fashion_mnist", "shapes", "target-mean"]
    assert [s for s in last.index if s.startswith("server-test/") and "calib" not in s] == [
        f"server-test/{name}" for name in names
    ]
    mean = last.loc[["server-test/fashion_mnist", "server-test/shapes"]]
    for metric in ("accuracy", "ece", "nll"):
        assert last.loc["server-test/target-mean", metric] == pytest.approx(mean[metric].mean())
    assert pd.isna(last.loc["server-test/target-mean", "num_examples"])
    # The source's test images again, so the very same numbers.
    for metric in ("accuracy", "ece", "nll"):
        pair = last.loc[["server-test/source", "server-test/shapes"], metric]
        assert pair.iloc[0] == pair.iloc[1]


def test_domains_are_parts_and_together_the_whole(tmp_path: Path) -> None:
    parts, whole = (
        run_small(tmp_path / name, 2, protocol=name, num_rounds=1)
        for name in ("in_domain", "in_distribution")
    )
    for name, tensor in final_adapter(whole).items():
        assert torch.equal(final_adapter(parts)[name], tensor)
    rows = [source(parts, f"server-test/{name}") for name in ("neon", "chalk", "mosaic")]
    rows.append(source(parts, "server-test/patterned"))
    total = sum(row["num_examples"] for row in rows)
    right = sum(row["accuracy"] * row["num_examples"] for row in rows)
    pooled = source(whole, "server-test")
    assert pooled["num_examples"] == total == 64
    assert pooled["accuracy"] == pytest.approx(right / total)
    mean = source(parts, "server-test/mean")
    assert mean["ece"] == pytest.approx(sum(row["ece"] for row in rows) / 4)
    assert "mce_count" not in mean


def test_few_shots_and_base_to_new_together(tmp_path: Path) -> None:
    folder = run_small(
        tmp_path, 2, protocol="few_shot(shots=3, then='base_to_new')", num_rounds=1,
        local_test_fraction=0.0, calibration_fraction=0.0,
    )  # fmt: skip
    assert sum(node["train"] for node in events(folder, "nodes")[0]["nodes"]) == 3 * 8
    assert {"server-test/base", "server-test/new"} <= set(metrics_table(folder)["source"])
    each = run_small(
        tmp_path / "each", 2, protocol="few_shot(shots=1, per='client')", num_rounds=1,
    )  # fmt: skip
    nodes = events(each, "nodes")[0]["nodes"]
    assert all(node["train"] <= 16 and node["test"] >= 9 for node in nodes)


class WithLists(Protocol):
    """Gives lists where tuples are asked for, as somebody's own protocol may."""

    def arrange(self, dataset: Dataset) -> Federation:
        names, templates = list(dataset.class_names), list(dataset.templates)
        test = dataset.split("test")
        few = test.select((test.labels < 2).nonzero()[:, 0])
        parts: Any = [
            HeldOutPart("all", test, names, templates),  # type: ignore[arg-type]
            HeldOutPart("two", few, names[:2], templates),  # type: ignore[arg-type]
        ]
        return Federation(dataset.split("train"), parts, names, templates, list(dataset.domains))  # type: ignore[arg-type]


def test_a_protocol_of_ones_own_may_give_lists(tmp_path: Path) -> None:
    folder = run_small(tmp_path, 2, protocol=f"{__name__}:WithLists()", num_rounds=1)
    found = source(folder, "server-test/two")
    assert found["accuracy"] >= 0.5
    assert found["num_examples"] < source(folder, "server-test/all")["num_examples"]


def test_the_only_part_keeps_its_name(tmp_path: Path) -> None:
    folder = run_small(tmp_path, 2, num_rounds=1, callbacks="default")
    assert {"server-test"} == {s for s in metrics_table(folder)["source"] if "server" in s}
    assert (folder / "reliability.png").exists()
    assert "All parts" not in (folder / "summary.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("values", "mean"),
    [((0.5, 1.0), 2 / 3), ((0.6, 0.6), 0.6), ((0.0, 0.9), 0.0), ((0.2, 0.8), 0.32)],
)
def test_known_harmonic_means(values: tuple[float, float], mean: float) -> None:
    parts = [{"accuracy": value, "ece": 0.1} for value in values]
    assert mean_of_parts(parts, harmonic=True) == {"accuracy": pytest.approx(mean)}


def test_a_mean_leaves_out_what_a_part_lacks() -> None:
    parts = [{"accuracy": 0.5, "ece": 0.1, "mce": 0.3, "mce_count": 4.0}, {"accuracy": 1.0}]
    assert mean_of_parts(parts) == {"accuracy": 0.75}
    assert mean_of_parts([{"ece": 0.1}, {"ece": float("nan")}]) == {}
    assert mean_of_parts([{}, {}], harmonic=True) == {}


def test_copies_between_clients_are_found_in_a_run(tmp_path: Path) -> None:
    twice = "tiny_datasets:Twice()"
    with pytest.raises(UserError, match=r"clients: .* held-out images of clients are training"):
        run_small(tmp_path / "stop", 2, dataset=twice)
    run_small(tmp_path / "drop", 2, dataset=twice, on_leak="drop", num_rounds=0)
    assert events(tmp_path / "drop" / "runs" / "run", "data")[0]["train"] == 40
    folder = run_small(tmp_path / "say", 2, dataset=twice, on_leak="report", num_rounds=0)
    assert "held-out images of clients are training images" in events(folder, "leak")[0]["note"]
    nodes = {0: {"site": "a", "dataset": twice}}
    with pytest.raises(UserError, match=r"client a: clients: .* byte by byte"):
        run_small(tmp_path / "own", 1, dataset=SMALL["dataset"], node_configs=nodes)
