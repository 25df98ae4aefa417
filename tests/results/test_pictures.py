"""Image files on a command line: which are meant, and what becomes of them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fl2ora.experiment.errors import UserError
from fl2ora.experiment.image_fit import Fit
from fl2ora.federated_data.datasets.folder import Folder
from fl2ora.results.pictures import find_images, read_images
from pictures import photo, save_photo

FIT = Fit(16, 20)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(("b.png", "a.jpg", "deep/er/c.PNG", "deep/d.webp")):
        save_photo(tmp_path / name, seed=number)
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / ".hidden.png").write_bytes(b"nothing")
    os.mkfifo(tmp_path / "pipe.png")
    return tmp_path


def test_a_folder_stands_for_its_image_files_at_any_depth(folder: Path) -> None:
    found = [path.relative_to(folder).as_posix() for path in find_images([str(folder)])]
    assert found == ["a.jpg", "b.png", "deep/d.webp", "deep/er/c.PNG"]


def test_patterns_and_files_in_the_order_given_and_each_once(folder: Path) -> None:
    names = [f"{folder}/b.png", f"{folder}/*.[jp]*g", f"{folder}/**/*.webp", f"{folder}/b.png"]
    found = [path.relative_to(folder).as_posix() for path in find_images(names)]
    assert found == ["b.png", "a.jpg", "deep/d.webp"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(folder: Path) -> None:
    odd = save_photo(folder / "x[1].png")
    assert find_images([str(odd)]) == [odd]


@pytest.mark.parametrize("name", ["none.png", "*.gif", "deep/*", "a\x00b", "x" * 300])
def test_a_name_of_nothing_is_named(folder: Path, name: str) -> None:
    with pytest.raises(UserError, match="expected"):
        find_images([str(folder / "b.png"), str(folder / "deep" / "er" / name)])


@pytest.mark.parametrize("name", ["", "/dev/zero", "/dev/null"])
def test_what_is_no_file_is_not_read(name: str) -> None:
    with pytest.raises(UserError, match="expected an image, a folder or a pattern, found"):
        find_images([name])


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(UserError, match=r"expected image files \(\.jpg, .* in the folder"):
        find_images([str(tmp_path)])


def test_images_are_those_that_a_dataset_of_the_same_files_holds(tmp_path: Path) -> None:
    root = tmp_path / "data"
    turned = photo(50, 30, 7)
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in range(8):
        path = root / "test" / "cat" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        (turned if number == 3 else photo(30, 50, number)).save(
            path, **({"exif": exif} if number == 3 else {})
        )
        save_photo(root / "train" / "cat" / f"{number}.png", seed=100 + number)
        save_photo(root / "test" / "dog" / f"{number}.png", seed=200 + number)
        save_photo(root / "train" / "dog" / f"{number}.png", seed=300 + number)
    dataset = Folder(str(root))
    dataset.prepare(FIT)
    held = dataset.split("test").images[:]
    (read,) = read_images(sorted((root / "test").rglob("*.*")), FIT)
    assert read.bad == {}
    expected = sorted(image.numpy().tobytes() for image in held)
    assert sorted(image.numpy().tobytes() for image in read.images) == expected


def test_what_cannot_be_used_is_told_by_name_and_the_rest_is_read(folder: Path) -> None:
    (folder / "bad.png").write_bytes(b"nothing")
    (folder / "empty.jpg").touch()
    whole = (folder / "b.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    paths = [folder / name for name in ("bad.png", "b.png", "empty.jpg", "cut.png", "gone.png")]
    (read,) = read_images(paths, FIT)
    assert read.paths == (folder / "b.png",)
    assert tuple(read.images.shape) == (1, 3, 20, 20)
    reasons = {path.name: reason for path, reason in read.bad.items()}
    assert set(reasons) == {"bad.png", "empty.jpg", "cut.png", "gone.png"}
    assert "found something else" in reasons["bad.png"]
    assert "found an empty file" in reasons["empty.jpg"]
    assert "No such file" in reasons["gone.png"]


def test_many_files_come_some_dozens_at_a_time(tmp_path: Path) -> None:
    path = save_photo(tmp_path / "a.png")
    parts = list(read_images([path] * 130, FIT))
    assert [len(part.paths) for part in parts] == [64, 64, 2]
    images = torch.cat([part.images for part in parts])
    assert np.unique(images.numpy(), axis=0).shape[0] == 1
