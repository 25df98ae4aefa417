"""Fashion-MNIST from IDX files: which image goes where, and what a user is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fl2ora.federated_data.datasets.fashion_mnist import FashionMNIST, read_pair
from fl2ora.federated_data.datasets.pretraining_split import FASHION_MNIST_PRETRAINING
from miniature_fashion import idx_bytes, write_miniature

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def _numbers(images: torch.Tensor) -> list[int]:
    return (images[:, 0, 0, 0].long() * 256 + images[:, 0, 0, 1].long()).tolist()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fashion")
    write_miniature(path)
    return path


def test_splits_leave_out_what_pretraining_saw(folder: Path) -> None:
    dataset = FashionMNIST(str(folder), validation=40)
    assert list(FASHION_MNIST_PRETRAINING) == list(range(2000))
    assert _numbers(dataset.split("train").images[:]) == list(range(2000, 2060))
    assert _numbers(dataset.split("validation").images[:]) == list(range(2060, 2100))
    assert _numbers(dataset.split("test").images[:]) == list(range(30))
    assert dataset.split("train").images.shape == (60, 1, 28, 28)
    assert dataset.split("train").images.dtype == torch.uint8
    assert dataset.split("test").labels.tolist() == [*range(10)] * 3
    assert dataset.split("test").domains.tolist() == [0] * 30
    assert len(dataset.class_names) == 10


def test_a_cap_draws_by_the_seed(folder: Path) -> None:
    first = FashionMNIST(str(folder), train=20, validation=40, seed=1).split("train")
    same = FashionMNIST(str(folder), train=20, validation=40, seed=1).split("train")
    other = FashionMNIST(str(folder), train=20, validation=40, seed=2).split("train")
    numbers = _numbers(first.images[:])
    assert len(set(numbers)) == 20
    assert set(numbers) <= set(range(2000, 2060))
    assert first.labels.tolist() == [number % 10 for number in numbers]
    assert torch.equal(first.images[:], same.images[:])
    assert not torch.equal(first.images[:], other.images[:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": 61, "validation": 40}, "train: expected at most 60 images, found 61"),
        ({"train": 0}, "train: expected a whole number >= 1, found 0"),
        ({"validation": 100}, "validation: expected less than 100 .*found 100"),
        ({"validation": 0}, "validation: expected a whole number >= 1, found 0"),
        ({"seed": "a"}, "seed: expected a whole number >= 0, found 'a'"),
    ],
)
def test_bad_arguments_are_named(folder: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FashionMNIST(str(folder), **arguments).split("train")  # type: ignore[arg-type]


def test_an_unknown_split_is_named(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"split: .*found 'validaton'; did you mean 'validation'"):
        FashionMNIST(str(folder), validation=40).split("validaton")  # type: ignore[arg-type]


def test_a_missing_folder_says_how_to_get_the_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no such folder; .*apt-get install dataset-fashion"):
        FashionMNIST(str(tmp_path / "absent"))
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.*found neither"):
        FashionMNIST(str(tmp_path))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((3, 32, 32), np.uint8), np.zeros(3, np.uint8), r"shape \(N, 28, 28\)"),
        (np.zeros((3, 28, 28), np.uint8), np.zeros(4, np.uint8), r"shape \(3,\), found .*\(4,\)"),
        (np.zeros((1, 28, 28), np.uint8), np.array([10], np.uint8), "0 to 9, found 10"),
    ],
)
def test_files_that_do_not_fit_are_named(
    tmp_path: Path, images: NDArray[np.uint8], labels: NDArray[np.uint8], message: str
) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx_bytes(images))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    with pytest.raises(ValueError, match=message):
        read_pair(tmp_path, "train")


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_real_files() -> None:
    dataset = FashionMNIST()
    assert len(dataset.split("train")) == 60_000 - 2_000 - 5_000
    assert len(dataset.split("validation")) == 5_000
    test = dataset.split("test")
    assert torch.bincount(test.labels).tolist() == [1000] * 10
    # The published mean of the training images is 0.2860 of full white.
    whole = torch.cat([dataset.split("train").images[:], dataset.split("validation").images[:]])
    assert float(whole.float().mean() / 255) == pytest.approx(0.2860, abs=1e-3)
