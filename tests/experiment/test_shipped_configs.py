"""Every configuration file in configs/ is one a user can run."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from fl2ora.calibration.losses.base import Loss
from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.commands.settings import read_settings
from fl2ora.engines.sweep_cells import Jobs
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import check_arguments, find, load
from fl2ora.experiment.spec import parse_spec, parse_sum
from fl2ora.experiment.sweep_file import read_sweep
from fl2ora.experiment.sweep_grid import Sweep
from fl2ora.federated_data.datasets.base import Dataset
from fl2ora.federated_data.partition.base import Partitioner
from fl2ora.strategies.base import Strategy

FOLDER = Path(__file__).resolve().parents[2] / "configs"
SWEEPS = sorted((FOLDER / "sweeps").glob("*.toml"))
STUDY = FOLDER / "study"
FILES = sorted(set(FOLDER.rglob("*.toml")) - set(SWEEPS) - set(STUDY.glob("*.toml")))


def test_shipped_configs_are_found() -> None:
    assert len(FILES) >= 3


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_shipped_config_is_valid_and_its_plug_ins_exist(file: Path) -> None:
    config = RunConfig.from_flat(read_settings(file, []))
    assert isinstance(load(config.method, TuningMethod), TuningMethod)
    assert isinstance(load(config.partition, Partitioner), Partitioner)
    assert isinstance(load(config.strategy, Strategy), Strategy)
    assert [load(spec, Loss) for _, spec in parse_sum(config.loss)]
    dataset = parse_spec(config.dataset)  # its files may not be on this machine
    check_arguments(find(dataset, Dataset), dataset)


def test_the_default_file_says_what_the_defaults_are() -> None:
    settings = read_settings(FOLDER / "default.toml", [])
    assert {key: RunConfig().flat()[key] for key in settings} == settings


def sweep_of(name: str) -> Sweep:
    text = (FOLDER / "sweeps" / f"{name}.toml").read_text(encoding="utf-8")
    return read_sweep(tomllib.loads(text))


def test_every_cell_of_the_papers_grid_can_be_built(tmp_path: Path) -> None:
    sweep = sweep_of("paper-grid")
    Jobs(tmp_path).check(sweep.cells(), sweep.select)
    assert len(sweep.cells()) == 672
    assert len(sweep.groups()) == 28


@pytest.mark.parametrize(
    ("name", "cells"), [("paper-grid-fashion-mnist", 672), ("paper-grid-vit-b16", 1120)]
)
def test_the_same_grid_on_other_data_can_be_built_but_for_missing_files(
    name: str, cells: int, tmp_path: Path
) -> None:
    sweep, embedded = sweep_of(name), sweep_of("paper-grid")
    assert len(sweep.cells()) == cells
    assert {axis: sweep.axes[axis] for axis in embedded.axes} == embedded.axes
    data = {cell.labels.get("data"): cell for cell in sweep.cells()}
    try:
        Jobs(tmp_path).check(list(data.values()), sweep.select)
    except UserError as error:
        problems = str(error).splitlines()[1:]
        assert all(x.startswith("  - dataset: ") and "found n" in x for x in problems), problems


def test_no_shipped_sweep_is_left_untested() -> None:
    known = {"paper-grid", "paper-grid-fashion-mnist", "paper-grid-vit-b16"}
    assert {file.stem for file in SWEEPS} == known


def test_every_cell_of_the_study_can_be_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("emoji", "clip"):
        (tmp_path / "study" / folder).mkdir(parents=True)
    (tmp_path / "study" / "emoji" / "new-vendors-seen-classes.csv").touch()
    monkeypatch.chdir(tmp_path)
    cells = {}
    for file in set(STUDY.glob("*.toml")) - {STUDY / "pretrain.toml"}:
        sweep = read_sweep(tomllib.loads(file.read_text(encoding="utf-8")))
        Jobs(tmp_path).check(sweep.cells(), sweep.select)
        cells[file.stem] = len(sweep.cells())
    wanted = {"methods": 80, "losses": 80, "rates": 50, "transfer": 24, "methods-drawings": 80}
    wanted |= {"losses-class-specific": 80, "lora-aggregators": 20, "longer": 18}
    assert cells == wanted
