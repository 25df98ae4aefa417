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
from fl2ora.experiment.plugins import check_arguments, find, load
from fl2ora.experiment.spec import parse_spec, parse_sum
from fl2ora.experiment.sweep_file import read_sweep
from fl2ora.federated_data.datasets.base import Dataset
from fl2ora.federated_data.partition.base import Partitioner
from fl2ora.strategies.base import Strategy

FOLDER = Path(__file__).resolve().parents[2] / "configs"
SWEEPS = sorted((FOLDER / "sweeps").glob("*.toml"))
FILES = sorted(set(FOLDER.rglob("*.toml")) - set(SWEEPS))


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


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_every_cell_of_a_shipped_sweep_can_be_built(file: Path, tmp_path: Path) -> None:
    sweep = read_sweep(tomllib.loads(file.read_text(encoding="utf-8")))
    Jobs(tmp_path).check(sweep.cells(), sweep.select)
    assert len(sweep.cells()) > 24
