"""Datasets of the library ``datasets``, from local folders: no network in tests."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest

from fl2ora.experiment.errors import UserError
from fl2ora.experiment.image_fit import Fit
from fl2ora.federated_data.datasets.hub import Hub
from fl2ora.federated_data.hub.columns import HubSource
from fl2ora.federated_data.protocols.base import Federation
from fl2ora.federated_data.shares import load_federation
from fl2ora.federated_data.store import stored
from pictures import photo, save_tree

FIT = Fit(8, 8)
NAMES = ["red_dog", "cat", "owl"]


@pytest.fixture(autouse=True)
def _quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setenv("FL2ORA_CACHE_DIR", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


def cell(seed: int) -> dict[str, Any]:
    file = io.BytesIO()
    photo(20, 24, seed).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": f"{seed}.png"}


def made(count: int, first: int = 0, **columns: Any) -> Any:
    """Return a split of ``count`` images with columns ``img`` and ``label``."""
    features: dict[str, Any] = {"img": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}
    data = {
        "img": [cell(first + n) for n in range(count)],
        "label": [n % 3 for n in range(count)],
        **columns,
    }
    kept = {name: features[name] for name in features if name not in columns}
    inferred = {
        name: datasets.Value("string" if isinstance(values[0], str) else "int64")
        for name, values in columns.items()
    }
    return datasets.Dataset.from_dict(data, features=datasets.Features({**kept, **inferred}))


def loaded(spec: str) -> Federation:
    return load_federation(spec, "in_distribution", FIT)


def problem(spec: str) -> str:
    with pytest.raises(UserError) as caught:
        loaded(spec)
    return str(caught.value)


def saved(folder: Path, **splits: Any) -> str:
    datasets.DatasetDict(splits).save_to_disk(str(folder))
    return str(folder)


def as_parquet(folder: Path, **splits: Any) -> str:
    folder.mkdir()
    for name, split in splits.items():
        split.to_parquet(str(folder / f"{name}-00000-of-00001.parquet"))
    return str(folder)


@pytest.mark.parametrize("write", [saved, as_parquet])
def test_splits_labels_and_class_names_are_found(write: Any, tmp_path: Path) -> None:
    name = write(tmp_path / "data", train=made(12), test=made(6, 100))
    federation = loaded(f"hub({name!r})")
    assert federation.class_names == ("red dog", "cat", "owl")
    assert federation.domains == ("all",)
    assert federation.train.images.shape == (12, 3, 8, 8)
    assert federation.train.labels.tolist() == [0, 1, 2] * 4
    assert len(federation.test) == 6
    assert federation.notes == ()
    stored_pixels = federation.train.images[3]
    expected = stored.decode(cell(3)["bytes"], FIT).pixels
    assert stored_pixels.numpy().tolist() == expected.tolist()


def test_folders_of_images(tmp_path: Path) -> None:
    folders = [f"{split}/{name}" for split in ("train", "test") for name in ("a_b", "c")]
    root = save_tree(tmp_path / "data", *folders, count=3)
    federation = loaded(f"hub({str(root)!r})")
    assert federation.class_names == ("a b", "c")
    assert (len(federation.train), len(federation.test)) == (6, 6)


def test_one_split_is_divided_by_content(tmp_path: Path) -> None:
    made(40).save_to_disk(str(tmp_path / "data"))
    spec = f"hub({str(tmp_path / 'data')!r}, test=0.3)"
    federation = loaded(spec)
    assert len(federation.train) + len(federation.test) == 40
    assert 4 < len(federation.test) < 21
    assert not set(federation.train.images.digests()) & set(federation.test.images.digests())
    other = loaded(spec.replace("0.3", "0.3, seed=1"))
    assert set(other.test.images.digests()) != set(federation.test.images.digests())


def test_columns_and_splits_that_are_named(tmp_path: Path) -> None:
    splits = {
        name: made(
            9, 100 * first, kind=["x_y", "z", "x_y"] * 3, who=[5, 6, 7] * 3, style=["s1"] * 9
        )
        for first, name in enumerate(("one", "two", "three"))
    }
    name = saved(tmp_path / "data", **splits)
    spec = (
        f"hub({name!r}, label_column='kind', client_column='who', domain_column='style', "
        "train_split='two', test_split='one', validation_split='three', image_column='img')"
    )
    dataset = Hub(
        name, label_column="kind", client_column="who", domain_column="style",
        train_split="two", test_split="one", validation_split="three",
    )  # fmt: skip
    assert dataset.class_names == ("x y", "z")
    assert dataset.domains == ("s1",)
    assert dataset.split("validation").clients == ("5", "6", "7") * 3
    assert loaded(spec).train.labels.tolist() == [0, 1, 0] * 3


def test_validation_images_are_tested_on_where_there_are_no_others(tmp_path: Path) -> None:
    name = saved(tmp_path / "data", train=made(6), validation=made(3, 50))
    dataset = Hub(name)
    assert (len(dataset.split("test")), len(dataset.split("validation"))) == (3, 0)


def test_numbers_as_labels_need_names(tmp_path: Path) -> None:
    name = saved(
        tmp_path / "data", train=made(4, label=[0, 1, 2, 1]), test=made(2, 9, label=[0, 2])
    )
    assert "the labels in 'label' are numbers: expected a classes_file" in problem(f"hub({name!r})")
    (tmp_path / "names.txt").write_text("dog\nblack_cat\nowl\n")
    spec = f"hub({name!r}, classes_file={str(tmp_path / 'names.txt')!r})"
    assert loaded(spec).class_names == ("dog", "black cat", "owl")
    (tmp_path / "few.txt").write_text("dog\nblack_cat\n")
    said = problem(f"hub({name!r}, classes_file={str(tmp_path / 'few.txt')!r})")
    assert "label: expected one of 2 classes, found '2' in 1 of 4 images" in said


def test_images_are_decoded_once_and_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = saved(tmp_path / "data", train=made(6), test=made(3, 50))
    first = Hub(name).split("train")
    monkeypatch.setattr(HubSource, "read", lambda *_: pytest.fail("read"))
    assert Hub(name).split("train").images[:].equal(first.images[:])


def test_a_bad_image_is_named(tmp_path: Path) -> None:
    bad = [cell(0), {"bytes": b"oops", "path": "bad.png"}, cell(2), {"bytes": b"", "path": None}]
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}
    )
    train = datasets.Dataset.from_dict({"img": bad, "label": [0, 1, 2, 0]}, features=features)
    name = saved(tmp_path / "data", train=train, test=made(3, 50))
    assert f"{name}, image 1 (bad.png): expected JPEG, PNG" in problem(f"hub({name!r})")
    federation = loaded(f"hub({name!r}, on_bad_image='skip')")
    assert federation.train.labels.tolist() == [0, 2]
    assert "2 of 4 images cannot be decoded" in federation.notes[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            "label_column='lable'",
            "label_column: expected one of img, label, found 'lable'; did you",
        ),
        ("image_column='image'", "image_column: expected one of img, label, found 'image'"),
        ("domain_column='style'", "domain_column: expected one of img, label, found 'style'"),
        ("client_column='who'", "client_column: expected one of img, label, found 'who'"),
        ("test_split='tst'", "test_split: expected one of test, train, found 'tst'; did you mean"),
        ("test_split='train'", "expected different splits, found train, train"),
        ("classes_file='none'", "classes_file: expected a file, found nothing there: none"),
        ("test=1.5", "test: expected a number > 0 and < 1, found 1.5"),
        ("config='small'", "cannot be loaded"),
    ],
)
def test_arguments_that_do_not_fit(arguments: str, said: str, tmp_path: Path) -> None:
    write = as_parquet if arguments.startswith("config") else saved
    name = write(tmp_path / "data", train=made(4), test=made(2, 9))
    assert said in problem(f"hub({name!r}, {arguments})")


def test_data_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    assert "cannot be loaded: " in problem(f"hub({str(tmp_path / 'empty')!r})")
    assert "name: expected a folder, found nothing there" in problem("hub('./none')")
    assert "name: expected one of the hub such as 'cifar10'" in problem("hub('')")
    assert "name: expected one of the hub such as 'cifar10'" in problem("hub('a/b/c')")
    monkeypatch.chdir(tmp_path)
    assert "name: expected './empty' for the folder" in problem("hub('empty')")
    only = saved(tmp_path / "only", other=made(3))
    assert "train_split: expected the name of one of other: none is called" in problem(
        f"hub({only!r})"
    )
    two = made(3).add_column("second", made(3)["label"])
    name = saved(tmp_path / "two", train=two.remove_columns("img"), test=made(3))
    assert "image_column: expected the name of one of label (int64), second (int64)" in problem(
        f"hub({name!r})"
    )


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    said = problem("hub('nobody/nothing')")
    assert "nobody/nothing: cannot be loaded from the hub or its cache: " in said
    assert "\n" not in said


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "hub needs the library datasets: pip install 'fl2ora[hub]'" in problem("hub('cifar10')")
