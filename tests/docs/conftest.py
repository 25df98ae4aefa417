"""A scratch folder in which a page's code and commands are tried."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from documented import ROOT
from miniature_root import write_all


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the current folder, from which modules can be imported as ``fl2ora`` does."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(tmp_path) in str(
            getattr(module, "__file__", None) or getattr(module, "__path__", "")
        ):
            del sys.modules[name]


@pytest.fixture(scope="session")
def miniatures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a root with a miniature of every published data set."""
    return write_all(tmp_path_factory.mktemp("data"))


@pytest.fixture
def published(miniatures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for published data sets, which need not be on this machine."""
    monkeypatch.setenv("FL2ORA_DATA_DIR", str(miniatures))


@pytest.fixture
def fashion_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for Fashion-MNIST's files, which need not be on this machine."""

    def read_pair(folder: object, part: str) -> tuple[Tensor, Tensor]:
        count = 60_000 if part == "train" else 10_000
        images = torch.zeros(count, 1, 28, 28, dtype=torch.uint8)
        number = torch.arange(count)  # no two images are equal
        images[:, 0, 0, 0], images[:, 0, 0, 1] = number // 256, number % 256
        images[:, 0, 0, 2] = int(part == "train")
        return images, torch.arange(count) % 10

    module = "fl2ora.federated_data.datasets.fashion_mnist"
    monkeypatch.setattr(f"{module}.read_pair", read_pair)
    monkeypatch.setattr(f"{module}._find", lambda folder, name: folder / name)
