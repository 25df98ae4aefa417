"""Small finished runs, made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from fl2ora.federated_data.images import LabelledImages
from fl2ora.federated_data.shares import load_federation
from runs import SMALL, run_small


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run with a temperature; not to be changed."""
    root = tmp_path_factory.mktemp("finished")
    return run_small(root, clients=2, calibrator="temperature", callbacks="none")


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture(scope="session")
def held_out() -> LabelledImages:
    """Return the central test images of these runs."""
    return load_federation(SMALL["dataset"], "in_distribution").parts[0].images


@pytest.fixture(scope="session")
def photos(held_out: LabelledImages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the first six of them as files."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(6):
        pixels = held_out.images[number].permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder
