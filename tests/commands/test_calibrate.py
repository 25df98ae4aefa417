"""``fl2ora calibrate``: what it leaves, and damaged folders of runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fl2ora.commands.calibrate import calibrate
from fl2ora.experiment.errors import UserError
from runs import run_small

Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_small(tmp_path_factory.mktemp("run"), clients=2, num_rounds=1, callbacks="none")


@pytest.fixture
def run_dir(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_each_spec_has_a_folder_of_its_own(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    specs = ["histogram_binning", "histogram_binning(bins=5)", "histogram_binning(5)"]
    folders = []
    for spec in [*specs, "histogram_binning(bins=5)"]:
        calibrate(run_dir, spec, as_json=True)
        outcome = json.loads(capsys.readouterr().out.splitlines()[-1])
        folders.append(Path(outcome["calibrator_dir"]))
        assert {"server-test", "server-test-calibrated"} <= outcome["metrics"].keys()
    names = [folder.name for folder in folders]
    assert names == [
        "histogram_binning", "histogram_binning-bins-5", "histogram_binning-5",
        "histogram_binning-bins-5",
    ]  # fmt: skip
    for folder, spec in zip(folders, specs, strict=False):
        assert json.loads((folder / "calibrator.json").read_text())["spec"] == spec
        assert (folder / "metrics.json").exists()
    assert len(list((run_dir / "calibrators").iterdir())) == 3


def _run_json(text: str | bytes) -> Damage:
    data = text if isinstance(text, bytes) else text.encode()
    return lambda folder: (folder / "run.json").write_bytes(data)


def _config(**changes: Any) -> Damage:
    def damage(folder: Path) -> None:
        content = json.loads((folder / "run.json").read_text())
        content["config"] |= {name.replace("_", "-"): value for name, value in changes.items()}
        (folder / "run.json").write_text(json.dumps(content))

    return damage


def _without(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def _folder_instead(name: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


def _logits(data: bytes) -> Damage:
    return lambda folder: (folder / "logits.safetensors").write_bytes(data)


def _tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "logits.safetensors"
        tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
        change(tensors)
        save_file(tensors, path)

    return damage


def _tensor(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Damage:
    return _tensors(lambda tensors: tensors.update({name: change(tensors[name]).contiguous()}))


DAMAGES: dict[str, Damage] = {
    "no run.json": _without("run.json"),
    "a folder run.json": _folder_instead("run.json"),
    "an empty run.json": _run_json(""),
    "half of run.json": _run_json('{"config": {"model'),
    "null": _run_json("null"),
    "a list": _run_json("[]"),
    "a text": _run_json('"config"'),
    "a number": _run_json("3"),
    "no config": _run_json("{}"),
    "config null": _run_json('{"config": null}'),
    "config a list": _run_json('{"config": ["model"]}'),
    "config a text": _run_json('{"config": "model"}'),
    "a number of thousands of digits": _run_json(f'{{"config": {{"seed": {"9" * 5000}}}}}'),
    "a deep run.json": _run_json("[" * 200_000),
    "run.json in no encoding": _run_json(b'{"config": "\xff\xfe"}'),
    "an unknown key": _config(nonsense=3),
    "a key's value of another type": _config(num_bins="many"),
    "a key's value a table": _config(num_bins={"a": 1}),
    "an unknown metric": _config(metrics="default + eceee"),
    "bins beyond sense": _config(num_bins=10**9),
    "no logits": _without("logits.safetensors"),
    "a folder of logits": _folder_instead("logits.safetensors"),
    "empty logits": _logits(b""),
    "logits of other bytes": _logits(b"x" * 1000),
    "a header beyond sense": _logits(b"\xff" * 8 + b"{}"),
    "no tensors": _tensors(lambda tensors: tensors.clear()),
    "no server-test": _tensors(lambda tensors: tensors.pop("server-test/logits")),
    "no labels": _tensors(lambda tensors: tensors.pop("test:1/labels")),
    "no features": _tensors(lambda tensors: tensors.pop("features/text")),
    "a tensor of another name": _tensors(lambda t: t.update(stray=torch.zeros(2))),
    "logits of one dimension": _tensor("server-test/logits", lambda t: t[:, 0]),
    "logits of no images": _tensor("server-test/logits", lambda t: t[:0]),
    "logits of no dimension": _tensor("server-test/logits", lambda t: t.sum()),
    "logits of whole numbers": _tensor("server-test/logits", lambda t: t.long()),
    "NaN among the logits": _tensor("calibration:1/logits", lambda t: t * torch.nan),
    "fewer classes with a client": _tensor("calibration:1/logits", lambda t: t[:, 1:]),
    "fewer classes zero-shot": _tensor("test:0/zero_shot", lambda t: t[:, 1:]),
    "fewer rows zero-shot": _tensor("server-test/zero_shot", lambda t: t[1:]),
    "fewer labels": _tensor("server-test/labels", lambda t: t[1:]),
    "labels beyond the classes": _tensor("server-test/labels", lambda t: t + 1000),
    "labels below 0": _tensor("calibration:0/labels", lambda t: t - 1000),
    "labels that are floats": _tensor("server-test/labels", lambda t: t.double()),
    "labels of two dimensions": _tensor("test:1/labels", lambda t: t[:, None]),
    "features of other classes": _tensor("features/text", lambda t: t[1:]),
    "features of another size": _tensor("features/zero_shot", lambda t: t[:, 1:]),
    "features of one dimension": _tensor("features/text", lambda t: t[:, 0]),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_folder_is_one_message(run_dir: Path, damage: Damage) -> None:
    damage(run_dir)
    with pytest.raises(UserError) as caught:
        calibrate(run_dir, "temperature")
    assert str(run_dir) in str(caught.value)
    assert len(str(caught.value)) < 1500
    assert not (run_dir / "calibrators").exists()


@pytest.mark.parametrize("name", ["metrics.jsonl", "events.jsonl", "metrics.csv"])
def test_what_is_not_needed_may_be_damaged(run_dir: Path, name: str) -> None:
    calibrate(run_dir, "temperature")
    results = run_dir / "calibrators" / "temperature" / "metrics.json"
    whole = results.read_bytes()
    results.unlink()
    (run_dir / name).write_bytes(b"\xff\x00nothing")
    calibrate(run_dir, "temperature")
    assert results.read_bytes() == whole


def test_no_folder_and_a_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "none", tmp_path / "file", Path("x" * 300)):
        with pytest.raises(UserError, match=r"expected .*(folder of a|a run's)"):
            calibrate(path, "temperature")
