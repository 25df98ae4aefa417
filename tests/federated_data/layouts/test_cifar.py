"""CIFAR-10 and CIFAR-100 from every published form."""

from __future__ import annotations

import io
import pickle
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import load
from fl2ora.federated_data.datasets.base import Dataset
from fl2ora.federated_data.datasets.published.cifar10 import CIFAR10
from fl2ora.federated_data.datasets.published.cifar100 import CIFAR100
from miniature_layouts import EXTRACTED, python2_batch, write_cifar

VERSIONS = ("cifar-10-python", "cifar-10-binary", "cifar-100-python", "cifar-100-binary")


def write(root: Path, version: str, packed: bool) -> Any:
    return write_cifar(root, version, packed, CIFAR100.coarse_of if "100" in version else None)


def read(root: Path, version: str, validation: int = 10) -> Dataset:
    return load(f"{name(version)}(root={str(root)!r}, validation={validation})", Dataset)


def name(version: str) -> str:
    return "cifar100" if "100" in version else "cifar10"


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
@pytest.mark.parametrize("version", VERSIONS)
def test_images_and_labels_are_those_of_the_files(
    tmp_path: Path, version: str, packed: bool
) -> None:
    parts = write(tmp_path, version, packed)
    before = sorted(tmp_path.rglob("*"))
    dataset = read(tmp_path, version)
    found = {split: dataset.split(split) for split in ("train", "validation", "test")}  # type: ignore[arg-type]
    whole = len(parts.labels["train"])
    assert {split: len(images) for split, images in found.items()} == {
        "train": whole - 10, "validation": 10, "test": len(parts.labels["test"])
    }  # fmt: skip
    for split, part, rows in (
        ("train", "train", slice(whole - 10)),
        ("validation", "train", slice(whole - 10, None)),
        ("test", "test", slice(None)),
    ):
        # Red, then green, then blue, each by rows: as the page of CIFAR says.
        pixels = parts.images[part][rows]
        images = found[split].images[:].numpy()
        assert np.array_equal(images[:, 1, 2, 3], pixels[:, 1024 + 2 * 32 + 3])
        assert np.array_equal(images.reshape(len(pixels), -1), pixels)
        assert found[split].labels.tolist() == parts.labels[part][rows]
        assert found[split].domains.unique().tolist() == [0]
    assert sorted(tmp_path.rglob("*")) == before  # nothing is extracted


def test_the_extracted_folder_itself_may_be_the_root(tmp_path: Path) -> None:
    write(tmp_path, "cifar-10-binary", packed=False)
    found = read(tmp_path / "cifar-10-batches-bin", "cifar-10-binary", validation=0)
    assert len(found.split("train")) == 40
    assert len(found.split("validation")) == 0


def test_cifar10_has_its_names() -> None:
    assert CIFAR10.class_names == (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
    )  # fmt: skip
    assert CIFAR10.coarse_of is None


def test_superclasses_are_the_published_ones() -> None:
    """Some lines of the table on CIFAR's page; coarse labels are in the order of their names."""
    names, coarse = CIFAR100.class_names, CIFAR100.coarse_of
    assert len(names) == 100
    assert list(names) == sorted(names)
    assert set(Counter(coarse).values()) == {5}
    members = {label: {n for n, c in zip(names, coarse, strict=True) if c == label}
               for label in range(20)}  # fmt: skip
    assert members[0] == {"beaver", "dolphin", "otter", "seal", "whale"}
    assert members[9] == {"bridge", "castle", "house", "road", "skyscraper"}
    assert members[14] == {"baby", "boy", "girl", "man", "woman"}
    assert members[18] == {"bicycle", "bus", "motorcycle", "pickup_truck", "train"}
    assert members[19] == {"lawn_mower", "rocket", "streetcar", "tank", "tractor"}
    # The first ten fine labels of the published files are of these coarse ones.
    assert coarse[:10] == (4, 1, 14, 8, 0, 6, 7, 7, 18, 3)


def member(path: Path, to: str, content: bytes, kind: bytes = tarfile.REGTYPE) -> None:
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo(to)
        info.size, info.type = len(content), kind
        info.linkname = "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
        archive.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_an_archive_are_not_followed(tmp_path: Path, kind: bytes) -> None:
    member(tmp_path / "cifar-10-binary.tar.gz", "cifar-10-batches-bin/test_batch.bin", b"", kind)
    with pytest.raises(UserError, match=r"expected cifar-10-batches-bin/test_batch.bin in it"):
        read(tmp_path, "cifar-10-binary").split("test")


@pytest.mark.parametrize("outside", ["../test_batch.bin", "/cifar-10-batches-bin/test_batch.bin"])
def test_members_that_lead_out_of_an_archive_are_passed_over(tmp_path: Path, outside: str) -> None:
    member(tmp_path / "cifar-10-binary.tar.gz", outside, bytes(3073))
    with pytest.raises(UserError, match="found no such file"):
        read(tmp_path, "cifar-10-binary").split("test")
    assert [path.name for path in tmp_path.iterdir()] == ["cifar-10-binary.tar.gz"]


def test_a_file_that_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for packed in (False, True):
        write(tmp_path / str(packed), "cifar-10-binary", packed)
        monkeypatch.setattr("fl2ora.federated_data.layouts.cifar._LARGEST", 1000)
        with pytest.raises(UserError, match=r"test_batch.bin: expected at most 1000 bytes"):
            read(tmp_path / str(packed), "cifar-10-binary").split("test")
        monkeypatch.undo()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_truncated_file_or_archive_is_named(tmp_path: Path, version: str) -> None:
    write(tmp_path / "packed", version, packed=True)
    archive = tmp_path / "packed" / f"{version}.tar.gz"
    content = archive.read_bytes()
    for length in (0, 5, len(content) // 2):
        archive.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"tar.gz: expected a whole .tar.gz, found it damaged"):
            read(tmp_path / "packed", version).split("test")
    write(tmp_path, version, packed=False)
    file = next(path for path in (tmp_path / EXTRACTED[version]).iterdir() if "test" in path.name)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"test.*: expected (a whole pickle|records of 307[34] b)"):
        read(tmp_path, version).split("test")


def test_a_missing_data_set_says_which_forms_will_do(tmp_path: Path) -> None:
    message = r"cifar-10-batches-py/ with data_batch_1, .*cs.toronto.edu"
    forms = r".*any of cifar-10-batches-py/, cifar-10-batches-bin/, cifar-10-python.tar"
    with pytest.raises(UserError, match=message + forms):
        read(tmp_path, "cifar-10-python")
    write(tmp_path, "cifar-100-python", packed=False)
    with pytest.raises(UserError, match=r"lacks data_batch_1.*found there: cifar-100-python"):
        read(tmp_path, "cifar-10-python")


def test_a_pickle_that_would_run_something_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "cifar-10-python", packed=False)
    target = tmp_path / "made"
    code = f"cos\nmkdir\n(V{target}\ntR."
    (tmp_path / "cifar-10-batches-py/test_batch").write_bytes(code.encode())
    with pytest.raises(UserError, match=r"test_batch: .*the name 'os.mkdir'; nothing"):
        read(tmp_path, "cifar-10-python").split("test")
    assert not target.exists()


ZEROS = np.zeros((2, 3072), np.uint8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps([1, 2], 2), r"test_batch: expected a dict, found list"),
        (python2_batch(ZEROS, fine_labels=[1, 2]),
         r"expected data and labels, found 'batch_label', 'fine_labels', 'data'"),
        (python2_batch(ZEROS[:, :768], labels=[1, 2]), r"shape \(N, 3072\), found \(2, 768\)"),
        (pickle.dumps({"data": [1], "labels": [1]}, 2), r"shape \(N, 3072\), found list"),
        (python2_batch(ZEROS, labels=[1, 2, 3]), r"expected 2 whole numbers in labels, found 3"),
        (python2_batch(ZEROS, labels=[1, 10]), r"test: expected labels from 0 to 9, found 10"),
    ],
)  # fmt: skip
def test_a_batch_of_something_else_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    write(tmp_path, "cifar-10-python", packed=False)
    (tmp_path / "cifar-10-batches-py/test_batch").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read(tmp_path, "cifar-10-python").split("test")


@pytest.mark.parametrize(
    ("coarse", "fine", "message"),
    [
        (20, 0, r"test: expected coarse_labels from 0 to 19, found 20"),
        (4, 100, r"test: expected fine_labels from 0 to 99, found 100"),
        (5, 0, r"expected coarse label 4 for class 'apple', found 5 at image 1"),
    ],
)
def test_labels_that_do_not_fit_are_named(
    tmp_path: Path, coarse: int, fine: int, message: str
) -> None:
    write(tmp_path, "cifar-100-binary", packed=False)
    path = tmp_path / "cifar-100-binary/test.bin"
    content = bytearray(path.read_bytes())
    content[3074], content[3075] = coarse, fine
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read(tmp_path, "cifar-100-binary").split("test")


def test_validation_leaves_something_to_train_on(tmp_path: Path) -> None:
    write(tmp_path, "cifar-10-binary", packed=False)
    with pytest.raises(UserError, match=r"validation: expected less than the 40 training images"):
        read(tmp_path, "cifar-10-binary", validation=40).split("train")
    assert len(read(tmp_path, "cifar-10-binary", validation=39).split("train")) == 1
    with pytest.raises(UserError, match="validation: expected a whole number >= 0, found -1"):
        read(tmp_path, "cifar-10-binary", validation=-1)
    assert torch.equal(
        read(tmp_path, "cifar-10-binary", validation=0).split("train").labels[:4],
        read(tmp_path, "cifar-10-binary").split("train").labels[:4],
    )
