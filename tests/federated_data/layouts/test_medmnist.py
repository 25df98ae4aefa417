"""MedMNIST from its npz files."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import load
from fl2ora.federated_data.checks import check_names
from fl2ora.federated_data.datasets.base import Dataset
from fl2ora.federated_data.datasets.published._medmnist import SETS
from miniature_layouts import write_medmnist

CHANNELS = {"pathmnist": 3, "dermamnist": 3, "retinamnist": 3, "bloodmnist": 3}
# Numbers of classes in MedMNIST's info.py.
CLASSES = {
    "pathmnist": 9, "dermamnist": 7, "octmnist": 4, "pneumoniamnist": 2, "retinamnist": 5,
    "breastmnist": 2, "bloodmnist": 8, "tissuemnist": 8, "organamnist": 11, "organcmnist": 11,
    "organsmnist": 11,
}  # fmt: skip


def read(root: Path, spec: str) -> Dataset:
    return load(f"medmnist({spec}, root={str(root)!r})", Dataset)


@pytest.mark.parametrize("name", CLASSES)
def test_every_set_is_read_as_published(name: str, tmp_path: Path) -> None:
    channels = CHANNELS.get(name, 1)
    arrays = write_medmnist(tmp_path, name, CLASSES[name], channels)
    dataset = read(tmp_path, f"name={name!r}")
    check_names(dataset)
    assert len(dataset.class_names) == CLASSES[name]
    for split, part in (("train", "train"), ("validation", "val"), ("test", "test")):
        found = dataset.split(split)  # type: ignore[arg-type]
        images, official = found.images[:].numpy(), arrays[f"{part}_images"]
        assert images.shape == (len(official), channels, 28, 28)
        if channels == 3:
            images = np.moveaxis(images, 1, 3)
        assert np.array_equal(images.reshape(official.shape), official)
        assert found.labels.tolist() == arrays[f"{part}_labels"][:, 0].tolist()


def test_all_sets_are_there_but_those_without_one_label_an_image() -> None:
    assert SETS.keys() == CLASSES.keys()


def test_larger_images_have_a_file_of_their_own(tmp_path: Path) -> None:
    write_medmnist(tmp_path, "breastmnist", 2, 1, side=64)
    assert read(tmp_path, "name='breastmnist', size=64").split("test").images.shape[2:] == (64, 64)
    with pytest.raises(UserError, match=r"lacks breastmnist.npz, found there: breastmnist_64.npz"):
        read(tmp_path, "name='breastmnist'")


def damaged(root: Path, **arrays: Any) -> None:
    path = root / "medmnist/breastmnist.npz"
    with np.load(path) as content:
        kept = dict(content)
    kept |= arrays
    np.savez_compressed(path, **{key: value for key, value in kept.items() if value is not None})


OBJECTS = np.array([[{"a": 1}]] * 4, dtype=object)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"test_images": None}, r"expected test_images, test_labels in it, found test_labels, tr"),
        ({"test_images": np.zeros((4, 32, 32), np.uint8)}, r"test_images: expected uint8 .*"
         r"\(N, 28, 28\) or .*found uint8 of shape \(4, 32, 32\)"),
        ({"test_images": np.zeros((4, 28, 28), np.float32)}, r"test_images: .*found float32"),
        ({"test_labels": np.zeros((4, 14), np.uint8)}, r"\(4, 1\), found uint8 of shape \(4, 14\)"),
        ({"test_labels": np.full((4, 1), 2, np.uint8)}, r"test_labels: expected 0 to 1, found 2"),
        ({"test_labels": np.full((4, 1), -1)}, r"test_labels: expected 0 to 1, found -1"),
        ({"test_labels": OBJECTS}, r"whole .npz file of plain arrays, found otherwise: Object arr"),
    ],
)  # fmt: skip
def test_a_file_of_something_else_is_named(
    tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    write_medmnist(tmp_path, "breastmnist", 2, 1)
    damaged(tmp_path, **arrays)
    with pytest.raises(UserError, match=message):
        read(tmp_path, "name='breastmnist'").split("test")


def test_few_bytes_that_would_become_very_many_are_refused(tmp_path: Path) -> None:
    write_medmnist(tmp_path, "breastmnist", 2, 1)
    path = tmp_path / "medmnist/breastmnist.npz"
    with np.load(path) as content:
        labels = content["test_labels"]
    header = io.BytesIO()
    described = {"descr": "|u1", "fortran_order": False, "shape": (10**9, 28, 28)}
    np.lib.format.write_array_header_1_0(header, described)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("test_images.npy", "w") as member:
            member.write(header.getvalue())
            for _ in range(96):
                member.write(bytes(2**20))
        with archive.open("test_labels.npy", "w") as member:
            np.save(member, labels)
    with pytest.raises(UserError, match=r"test_images.npy: expected at most 76,\d+,\d+ bytes of "):
        read(tmp_path, "name='breastmnist'").split("test")


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    write_medmnist(tmp_path, "breastmnist", 2, 1)
    path = tmp_path / "medmnist/breastmnist.npz"
    content = path.read_bytes()
    for length in (0, 3, len(content) // 2):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"breastmnist.npz: expected a.* .npz file"):
            read(tmp_path, "name='breastmnist'").split("test")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("name='chestmnist'", r"name: expected one of pathmnist, .*found 'chestmnist'"),
        ("name='breastmnist', size=32", r"size: expected one of 28, 64, 128, 224, found 32"),
    ],
)
def test_bad_arguments_are_named(tmp_path: Path, spec: str, message: str) -> None:
    write_medmnist(tmp_path, "breastmnist", 2, 1)
    with pytest.raises(UserError, match=message):
        read(tmp_path, spec)
