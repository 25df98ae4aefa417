"""Folders of images as datasets: layouts, tables, class names, splits, and what is wrong."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fl2ora.experiment.errors import UserError
from fl2ora.experiment.image_fit import Fit
from fl2ora.experiment.plugins import load
from fl2ora.federated_data.datasets.base import Dataset
from fl2ora.federated_data.datasets.folder import Folder
from fl2ora.federated_data.folders import table as folder_table
from fl2ora.federated_data.folders.fractions import split_by_content
from fl2ora.federated_data.images import DIGEST, digest_of
from fl2ora.federated_data.shares import load_federation
from pictures import save_photo, save_tree

FIT = Fit(8, 8)


def names(dataset: Folder, split: Any) -> list[str]:
    """Return a split's files as folder/name."""
    return ["/".join(Path(path).parts[-2:]) for path in dataset.files(split).paths]


def problem(path: Path | str, **arguments: Any) -> str:
    """Return what is wrong with a folder as a dataset of a run."""
    given = {"path": str(path), **arguments}
    spec = f"folder({', '.join(f'{name}={value!r}' for name, value in given.items())})"
    with pytest.raises(UserError) as caught:
        load_federation(spec, "in_distribution", FIT)
    return str(caught.value)


def test_folders_of_classes(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "data", "red_dog", "cat", count=10)
    dataset = Folder(str(root), seed=3)
    assert dataset.class_names == ("cat", "red dog")
    assert dataset.domains == ("all",)
    train, test = names(dataset, "train"), names(dataset, "test")
    assert sorted(train + test) == sorted(
        f"{c}/{n}.png" for c in ("cat", "red_dog") for n in range(10)
    )
    assert names(dataset, "validation") == []
    labels = dataset.files("train").labels
    assert [bool(label) for label in labels] == ["red_dog" in name for name in train]
    images = dataset.split("train")
    assert images.images.shape == (len(train), 3, 224, 224)
    assert torch.equal(images.labels, torch.from_numpy(labels))
    assert dataset.notes == ()


def test_a_run_s_preprocessing_says_how_large_images_are(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "data", "dog", "cat", count=8)
    spec = f"folder({str(root)!r}, validation=0.2)"
    federation = load_federation(spec, "in_distribution", Fit(8, 12, larger=20))
    assert (
        federation.train.images.shape[1:]
        == federation.parts[0].images.images.shape[1:]
        == (3, 12, 12)
    )
    crops, shapes = federation.train.images.for_crops(slice(0, 1))
    assert crops.shape == (1, 3, 20, 20)
    assert shapes is not None
    assert shapes.tolist() == [[20, 24]]
    assert federation.parts[0].images.images.for_crops(slice(0, 1))[1] is None
    assert any("validation images are left out" in note for note in federation.notes)


def test_folders_of_domains(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "data", "photo/dog", "photo/cat", "art/dog", "art/cat")
    dataset = Folder(str(root))
    assert dataset.domains == ("art", "photo")
    files = dataset.files("train")
    assert [bool(d) for d in files.domains] == ["/photo/" in str(path) for path in files.paths]
    spec, protocol = f"folder({str(root)!r})", "leave_one_domain_out(domain='art')"
    federation = load_federation(spec, protocol, FIT)
    assert set(federation.train.domains.tolist()) == {1}


@pytest.mark.parametrize("words", [("train", "val", "test"), ("Training", "valid", "TEST")])
def test_folders_of_splits(tmp_path: Path, words: tuple[str, str, str]) -> None:
    folders = [f"{word}/{name}" for word in words for name in ("dog", "cat")]
    dataset = Folder(str(save_tree(tmp_path / "data", *folders, count=2)))
    for split, word in zip(("train", "validation", "test"), words, strict=True):
        found = [Path(path).parts[-3] for path in dataset.files(split).paths]  # type: ignore[arg-type]
        assert found == [word] * 4


def test_folders_of_splits_and_domains(tmp_path: Path) -> None:
    folders = [f"{s}/{d}/{c}" for s in ("train", "test") for d in ("a", "b") for c in ("x", "y")]
    dataset = Folder(str(save_tree(tmp_path / "data", *folders, count=1)))
    assert dataset.domains == ("a", "b")
    assert dataset.class_names == ("x", "y")
    assert len(dataset.files("test")) == 4


def test_validation_images_are_tested_on_where_there_are_no_others(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "data", "train/dog", "train/cat", "val/dog", "val/cat", count=2)
    dataset = Folder(str(root))
    assert len(dataset.files("test")) == 4
    assert len(dataset.files("validation")) == 0
    assert dataset.notes == ("there are no test images: the validation images are tested on",)


def test_layouts_that_are_told(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "data", "anna/dog/x", "ben/dog/x", "ben/cat/y", count=3)
    dataset = Folder(str(root), layout="client/class/any", test=0.4)
    assert dataset.class_names == ("cat", "dog")
    files = dataset.files("train")
    assert files.clients == tuple(Path(path).parts[-4] for path in files.paths)
    assert dataset.split("train").clients == files.clients


def test_what_is_no_image_is_left_out_and_counted(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "data", "dog", "cat", count=5)
    save_photo(root / "dog" / "large.JPEG")
    save_tree(root, ".hidden/x", "__MACOSX/dog")
    for name in ("a.txt", "b.txt", "c.gif", ".DS_Store", "Thumbs.db"):
        (root / "dog" / name).write_text("x")
    dataset = Folder(str(root))
    assert len(dataset.files("train")) + len(dataset.files("test")) == 11
    assert dataset.notes == ("files left out, since their endings are no images': 2 .txt, 1 .gif",)


def write_table(table: Path, **columns: Any) -> Path:
    frame = pd.DataFrame(columns)
    if table.suffix == ".parquet":
        frame.to_parquet(table)
    else:
        frame.to_csv(table, index=False, sep="\t" if table.suffix == ".tsv" else ",")
    return table


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_tables(tmp_path: Path, ending: str) -> None:
    save_tree(tmp_path / "data", "x", count=8)
    other = save_photo(tmp_path / "elsewhere.png", seed=70)
    table = write_table(
        tmp_path / f"table.{ending}",
        path=[*(f"x/{n}.png" for n in range(8)), str(other)],
        label=["dog", "black_cat", "dog"] * 3,
        domain=["d1"] * 5 + ["d0"] * 4,
        client=[7, 7, 8] * 3,
        split=["train"] * 6 + ["test", "val", "Test"],
    )
    dataset = Folder(str(tmp_path / "data"), table_file=str(table))
    assert dataset.class_names == ("black cat", "dog")
    assert dataset.domains == ("d0", "d1")
    train, test = dataset.files("train"), dataset.files("test")
    assert train.labels.tolist() == [1, 0, 1, 1, 0, 1]
    assert train.domains.tolist() == [1, 1, 1, 1, 1, 0]
    assert train.clients == ("7", "7", "8", "7", "7", "8")
    assert [Path(path).name for path in test.paths] == ["6.png", "elsewhere.png"]
    assert len(dataset.files("validation")) == 1


def test_columns_of_other_names(tmp_path: Path) -> None:
    save_tree(tmp_path / "data", "x", count=10)
    table = write_table(
        tmp_path / "t.csv",
        file=[f"x/{n}.png" for n in range(10)],
        kind=["a", "b"] * 5,
        who=["w"] * 10,
    )
    columns = {"path": "file", "label": "kind", "client": "who"}
    dataset = Folder(str(tmp_path / "data"), str(table), columns=columns)
    assert dataset.class_names == ("a", "b")
    assert set(dataset.files("train").clients or ()) == {"w"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("red_dog\ncat\n", ("red dog", "cat")),
        ("cat\nred dog\n", ("cat", "red dog")),
        ("red_dog\tcrimson hound\ncat\ttabby\n", ("crimson hound", "tabby")),
        ("red_dog, crimson hound\n\ncat,tabby, or cat", ("crimson hound", "tabby, or cat")),
        ("cat a small cat\nred_dog hound", ("a small cat", "hound")),
    ],
)
def test_class_names_from_a_file(tmp_path: Path, text: str, expected: tuple[str, ...]) -> None:
    root = save_tree(tmp_path / "data", "red_dog", "cat", count=5)
    (tmp_path / "names.txt").write_text(text)
    dataset = Folder(
        str(root), classes_file=str(tmp_path / "names.txt"), templates=["a {}", "the {}"]
    )
    assert dataset.class_names == expected
    assert dataset.templates == ("a {}", "the {}")
    files = dataset.files("train")
    dog = next(
        i for i, name in enumerate(expected) if name in ("red dog", "crimson hound", "hound")
    )
    assert [label == dog for label in files.labels] == ["red_dog" in str(p) for p in files.paths]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cat\n", "names.txt: expected a line for each of 2 classes, found none for 'red_dog'"),
        ("cat\nred_dog\nowl\n", "names.txt: 'owl' has no images"),
        ("cat\nred_dog\ncat x\n", "names.txt: expected each class once, found 'cat' twice"),
        ("cat the cat\nred_dog The_Cat\n", "class_names: expected names that differ in more than"),
    ],
)
def test_class_names_that_do_not_fit(tmp_path: Path, text: str, said: str) -> None:
    root = save_tree(tmp_path / "data", "red_dog", "cat", count=5)
    (tmp_path / "names.txt").write_text(text)
    assert said in problem(root, classes_file=str(tmp_path / "names.txt"))


def test_class_names_that_are_no_text(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "data", "red_dog", "cat", count=5)
    (tmp_path / "names.txt").write_bytes(b"\xff\xfe\0")
    assert "names.txt: expected class names in UTF-8" in problem(
        root, classes_file=str(tmp_path / "names.txt")
    )


def test_classes_that_prompts_cannot_tell_apart(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "data", "Red_dog", "red dog", count=5)
    assert "class_names: expected names that differ in more than case" in problem(root)


FOLDERS: list[tuple[list[str], str]] = [
    ([], "expected images (.jpg, .jpeg, .png, .webp, .bmp, .tif, .tiff) in folders of their"),
    (["."], "expected all images in folders class/, domain/class/ or train|val|test/class/"),
    (["a", "b/c"], "found a/0.png and b/c/0.png; layout says what other folders are"),
    (["a/b/c/d"], "expected all images in folders class/, domain/class/"),
    (["test/a", "test/b"], "the train split has no images"),
    (["train/a", "train/b"], "the test split has no images"),
    (["train/a", "test/a", "test/b"], "class 'b' has no training images"),
]


@pytest.mark.parametrize(("folders", "said"), FOLDERS, ids=lambda value: str(value)[:30])
def test_folders_that_hold_something_else(folders: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert said in problem(save_tree(tmp_path / "data", *folders))


def test_a_class_without_images(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "data", "dog", "cat")
    (root / "owl").mkdir()
    assert f"{root}: class 'owl' has no images" in problem(root)


def test_a_class_that_another_seed_would_train_on(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "data", "dog", count=20)
    save_photo(root / "cat" / "0.png", seed=77)
    said = {Folder(str(root), seed=seed, test=0.5).class_names for seed in range(3)}
    assert said == {("cat", "dog")}
    assert any(
        "class 'cat' has no training images; another seed draws others" in str(error)
        for error in (_error_of(Folder(str(root), seed=seed, test=0.5)) for seed in range(10))
    )


def _error_of(dataset: Folder) -> UserError | None:
    try:
        dataset.files("train")
    except UserError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"layout": "class/class"}, "layout: expected auto, or one of split, domain, class"),
        ({"layout": "domain"}, "with class among them, such as domain/class, found 'domain'"),
        ({"layout": "domian/class"}, "layout: expected auto, or one of"),
        ({"layout": "domain/class"}, "expected all images in folders domain/class, found cat/"),
        ({"test": 0.0}, "test: expected a number > 0 and < 1, found 0.0"),
        ({"test": 0.5, "validation": 0.5}, "validation: expected less than 1 together with test"),
        ({"classes_file": "none.txt"}, "classes_file: expected a file, found nothing there"),
        ({"table_file": "/"}, "table_file: expected a file, found a folder: /"),
        ({"columns": {"paht": "x"}}, "columns: expected one of path, label, domain, client, split"),
        ({"columns": {"path": 3}}, "columns: path: expected the name of a column, found 3"),
        ({"templates": "a photo"}, "templates: expected exactly one {} for the class name"),
        ({"templates": []}, "templates: expected at least one text"),
        ({"on_bad_image": "go"}, "on_bad_image: expected one of stop, skip, found 'go'"),
        ({"seed": -1}, "seed: expected a whole number >= 0"),
    ],
    ids=str,
)  # fmt: skip
def test_arguments_that_cannot_be(arguments: dict[str, Any], said: str, tmp_path: Path) -> None:
    assert said in problem(save_tree(tmp_path / "data", "dog", "cat"), **arguments)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    assert "path: expected a folder, found nothing there" in problem(tmp_path / "none")
    with pytest.raises(UserError, match=r"path: expected a folder, found ''$"):
        Folder("")
    assert "path: expected a folder, found a file" in problem(save_photo(tmp_path / "x.png"))


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = save_tree(tmp_path / "data", "dog", "cat")

    def refuse(folder: Path) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.scandir", refuse)
    assert f"{root}: the folder cannot be read: Permission denied" in problem(root)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("path,class\nx/0.png,a\n", "t.csv: expected a column 'label' (label of each image)"),
        ("path,labels\nx/0.png,a\n", "did you mean 'labels'?"),
        ("path,label\n", "t.csv: expected a line for each image, found none"),
        ("", "t.csv: cannot be read: No columns"),
        ("path,label\nx/0.png,a\nx/1.png,\n", "t.csv: label: expected a value in each line, found "
         "none in line 2 below the header"),
        ("path,label\nx/0.png,a\nx/9.png,b\n", "t.csv: 1 of 2 images do not exist, the first: "),
        ("path,label\nx/0.png,a\nx/0.png,b\n", "expected each image once, found "),
        ("path,label,split\nx/0.png,a,trian\n", "t.csv: split: expected train, validation or test, "
         "found 'trian'; did you mean 'train'?"),
    ],
    ids=str,
)  # fmt: skip
def test_tables_that_do_not_fit(table: str, said: str, tmp_path: Path) -> None:
    root = save_tree(tmp_path / "data", "x")
    (tmp_path / "t.csv").write_text(table)
    assert said in problem(root, table_file=str(tmp_path / "t.csv"))


def test_tables_of_other_kinds(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "data", "x")
    for name, said in (
        ("t.xls", "expected .csv, .tsv or .parquet"),
        ("t.parquet", "cannot be read"),
    ):
        (tmp_path / name).write_text("nonsense")
        assert said in problem(root, table_file=str(tmp_path / name))
    table = write_table(tmp_path / "t.csv", path=["x/0.png"], label=["a"])
    assert "expected a column 'who' (client of each image)" in problem(
        root, table_file=str(table), columns={"client": "who"}
    )
    assert "layout: expected auto beside a table_file" in problem(
        root, table_file=str(table), layout="class"
    )


def test_a_parquet_table_of_too_many_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = save_tree(tmp_path / "data", "x")
    monkeypatch.setattr(folder_table, "_MOST_LINES", 1)
    table = write_table(tmp_path / "t.parquet", path=["x/0.png"] * 2, label=["a"] * 2)
    said = "t.parquet: expected at most 1 lines, found 2"
    assert said in problem(root, table_file=str(table))


def test_a_file_that_is_no_image(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "data", "dog", "cat", count=8)
    (root / "dog" / "3.png").write_bytes(b"not an image")
    assert f"{root}/dog/3.png: expected JPEG, PNG, WebP, BMP or TIFF, found" in problem(root)
    spec = f"folder({str(root)!r}, on_bad_image='skip')"
    federation = load_federation(spec, "in_distribution", FIT)
    assert len(federation.train) + len(federation.parts[0].images) == 15
    assert any("1 of " in note and "/dog/3.png: expected" in note for note in federation.notes)


def test_a_spec_names_a_folder(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "data", "dog", "cat")
    assert isinstance(load(f"folder(path={str(root)!r}, seed=4)", Dataset), Folder)


CONTENTS = st.lists(st.binary(max_size=6), unique=True, max_size=60)


def digests(contents: list[bytes]) -> Any:
    return np.array([digest_of(content) for content in contents], dtype=DIGEST)


@given(CONTENTS, CONTENTS, st.integers(0, 2**31 - 1), st.data())
def test_new_images_move_no_old_one_and_copies_stay_together(
    old: list[bytes], new: list[bytes], seed: int, data: st.DataObject
) -> None:
    before = dict(zip(old, split_by_content(digests(old), 0.2, 0.3, seed), strict=True))
    mixed = data.draw(st.permutations([*old, *new, *old[:3]]))
    after = split_by_content(digests(mixed), 0.2, 0.3, seed)
    for content, split in zip(mixed, after, strict=True):
        assert before.setdefault(content, split) == split


@given(st.floats(0, 0.4), st.floats(0.01, 0.5), st.integers(0, 2**31 - 1))
def test_fractions_are_kept_to_the_spread_of_chance(val: float, test: float, seed: int) -> None:
    count = 4000
    contents = digests([str(number).encode() for number in range(count)])
    found = Counter(split_by_content(contents, val, test, seed))
    for name, fraction in (("validation", val), ("test", test), ("train", 1 - val - test)):
        spread = (count * fraction * (1 - fraction)) ** 0.5
        assert abs(found[name] - count * fraction) <= 6 * spread + 1


@given(st.integers(0, 1000))
def test_a_larger_fraction_keeps_the_test_images(seed: int) -> None:
    contents = digests([str(number).encode() for number in range(200)])
    small, large = (split_by_content(contents, 0.0, test, seed) for test in (0.1, 0.3))
    pairs = zip(small, large, strict=True)
    assert all(after == "test" for before, after in pairs if before == "test")
    assert small != split_by_content(contents, 0.0, 0.1, seed + 1)
