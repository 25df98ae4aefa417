"""Every published data set of files, read from a miniature in its published layout."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from fl2ora.experiment.plugins import available, find, load
from fl2ora.experiment.spec import parse_spec
from fl2ora.federated_data.checks import check_names
from fl2ora.federated_data.datasets._files import FilesDataset
from fl2ora.federated_data.datasets.base import Dataset
from fl2ora.federated_data.datasets.published._imagenet_folders import ImageNetTestSet
from fl2ora.federated_data.shares import load_federation
from miniature_layouts import FILES, Expected, Row

NO_OFFICIAL_SPLIT = ("office_home", "vlcs", "terra_incognita")
DRAWN_VALIDATION = ("imagenet", "pacs", "domainnet")
OTHERS = {"shapes", "fashion_mnist", "cifar10", "cifar100", "medmnist", "folder", "hub", "table"}
TEMPLATES = {  # of CoOp's zero-shot CLIP
    "dtd": "{} texture.",
    "eurosat": "a centered satellite photo of {}.",
    "food101": "a photo of {}, a type of food.",
    "oxford_flowers": "a photo of a {}, a type of flower.",
    "oxford_pets": "a photo of a {}, a type of pet.",
    "fgvc_aircraft": "a photo of a {}, a type of aircraft.",
    "ucf101": "a photo of a person doing {}.",
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Expected]]:
    root = tmp_path_factory.mktemp("data")
    return root, {name: write(root) for name, write in FILES.items()}


@pytest.fixture(scope="module")
def root(written: tuple[Path, dict[str, Expected]]) -> Path:
    return written[0]


@pytest.fixture(scope="module")
def expected(written: tuple[Path, dict[str, Expected]]) -> dict[str, Expected]:
    return written[1]


def read(root: Path, spec: str) -> FilesDataset:
    name, _, arguments = spec.partition("(")
    dataset = load(f"{name}(root={str(root)!r}, {arguments}" if arguments else
                   f"{name}(root={str(root)!r})", Dataset)  # fmt: skip
    assert isinstance(dataset, FilesDataset)
    return dataset


def rows(dataset: FilesDataset, root: Path, split: str) -> list[Row]:
    """Return a split as the miniatures describe it."""
    files = dataset.files(split)  # type: ignore[arg-type]
    assert all(path.is_file() for path in files.paths)
    found = []
    for path, label, domain in zip(files.paths, files.labels, files.domains, strict=True):
        below = path.relative_to(root).as_posix().partition("/")[2]
        found.append((below, dataset.class_names[label], dataset.domains[domain]))
    return found


def test_every_data_set_of_files_has_a_miniature() -> None:
    assert set(available(Dataset)) - OTHERS == FILES.keys()


@pytest.mark.parametrize("name", FILES)
def test_names_and_templates_are_those_of_the_layout(
    name: str, root: Path, expected: dict[str, Expected]
) -> None:
    dataset = read(root, name)
    check_names(dataset)
    assert dataset.class_names == expected[name].class_names
    assert dataset.templates == (TEMPLATES.get(name, "a photo of a {}."),)
    assert find(parse_spec(name), Dataset).__doc__


@pytest.mark.parametrize("name", [n for n in FILES if n not in NO_OFFICIAL_SPLIT])
def test_official_splits_are_read(name: str, root: Path, expected: dict[str, Expected]) -> None:
    dataset = read(root, name)
    for split, official in expected[name].splits.items():
        found = rows(dataset, root, split)
        if split == "train" and name in DRAWN_VALIDATION:
            found = [*found, *rows(dataset, root, "validation")]
        assert Counter(found) == Counter(official)
        if split != "train" or name not in DRAWN_VALIDATION:
            assert found == official  # in the order of the list


@pytest.mark.parametrize("name", NO_OFFICIAL_SPLIT)
def test_drawn_splits_are_stratified_and_cover_everything(
    name: str, root: Path, expected: dict[str, Expected]
) -> None:
    dataset = read(root, name)
    parts = {split: rows(dataset, root, split) for split in ("train", "validation", "test")}
    assert Counter([row for part in parts.values() for row in part]) == Counter(
        expected[name].splits["all"]
    )
    for split, count in (("train", 7), ("validation", 1), ("test", 2)):
        strata = Counter((label, domain) for _, label, domain in parts[split])
        assert set(strata.values()) == {count}


@pytest.mark.parametrize("name", ["pacs", "domainnet", "imagenet"])
def test_validation_is_a_share_of_each_class_of_each_domain(name: str, root: Path) -> None:
    dataset = read(root, f"{name}(validation=0.25)")
    held = Counter(tuple(row[1:]) for row in rows(dataset, root, "validation"))
    kept = Counter(tuple(row[1:]) for row in rows(dataset, root, "train"))
    assert set(held.values()) == {1}
    assert all(held[stratum] == 1 and count in (2, 3) for stratum, count in kept.items())
    none = read(root, f"{name}(validation=0)")
    assert len(none.files("validation")) == 0
    assert not any("drawn for validation" in note for note in none.notes)
    assert any("25% of each class" in note for note in dataset.notes)


@pytest.mark.parametrize("name", [*NO_OFFICIAL_SPLIT, "pacs"])
def test_the_draw_follows_the_seed_and_nothing_else(name: str, root: Path) -> None:
    share = "validation=0.25" if name == "pacs" else "test=0.3"
    split = "validation" if name == "pacs" else "test"
    first, same = (rows(read(root, f"{name}({share}, seed=1)"), root, split) for _ in range(2))
    other = rows(read(root, f"{name}({share}, seed=2)"), root, split)
    assert first == same
    assert set(first) != set(other)
    assert len(first) == len(other)


@pytest.mark.parametrize("name", [*NO_OFFICIAL_SPLIT, "pacs", "domainnet"])
def test_some_domains_are_read_as_they_are_among_all(name: str, root: Path) -> None:
    whole = read(root, name)
    _, second, third, *_ = whole.domains
    some = read(root, f"{name}(domains='{third}, {second}')")
    assert some.domains == (third, second)
    assert some.class_names == whole.class_names
    for split in ("train", "validation", "test"):
        of_two = [row for row in rows(whole, root, split) if row[2] in (second, third)]
        assert set(rows(some, root, split)) == set(of_two)


@pytest.mark.parametrize("name", FILES)
def test_the_root_may_be_the_data_sets_own_folder_or_come_from_the_environment(
    name: str, root: Path, expected: dict[str, Expected], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = read(root, name)
    files = dataset.files("test")
    folder = root / files.paths[0].relative_to(root).parts[0]
    assert read(folder, name).files("test").paths == files.paths
    monkeypatch.setenv("FL2ORA_DATA_DIR", str(root))
    elsewhere = load(name, Dataset)
    assert isinstance(elsewhere, FilesDataset)
    assert elsewhere.files("test").paths == files.paths
    monkeypatch.delenv("FL2ORA_DATA_DIR")
    with pytest.raises(ValueError, match=r"root: expected the folder .*FL2ORA_DATA_DIR"):
        load(name, Dataset)


def test_sets_to_be_tested_on_have_nothing_to_train_on(root: Path) -> None:
    only = [n for n in FILES if issubclass(find(parse_spec(n), Dataset), ImageNetTestSet)]
    assert len(only) == 4
    for name in only:
        with pytest.raises(ValueError, match="tested on alone, there is no train split"):
            read(root, name).files("train")


def test_class_names_beside_imagenet_do_for_its_test_sets(
    root: Path, expected: dict[str, Expected]
) -> None:
    own = root / "imagenet-rendition" / "classnames.txt"
    kept = own.read_text()
    own.unlink()
    try:
        assert read(root, "imagenet_r").class_names == expected["imagenet_r"].class_names
    finally:
        own.write_text(kept)


def test_pacs_reads_the_odd_image_where_it_is_there(
    tmp_path: Path,
) -> None:
    FILES["pacs"](tmp_path)
    odd = "sketch/dog/n02103406_4068-1.png"
    assert len(read(tmp_path, "pacs(validation=0)").files("train")) == 4 * 7 * 4
    (tmp_path / "pacs/images" / odd).write_bytes(b"whole")
    assert len(read(tmp_path, "pacs(validation=0)").files("train")) == 4 * 7 * 4 + 1


def test_pacs_is_not_tested_on_what_it_trains_on(root: Path, expected: dict[str, Expected]) -> None:
    dataset = read(root, "pacs")
    assert not set(dataset.files("train").paths) & set(dataset.files("test").paths)
    assert any("test lists hold the training images" in note for note in dataset.notes)


def test_a_template_may_be_given(root: Path, expected: dict[str, Expected]) -> None:
    for name in ("dtd", "fgvc_aircraft"):
        assert read(root, f"{name}(templates='a {{}}.')").templates == ("a {}.",)
        both = read(root, f"{name}(templates=['a {{}}.', 'one {{}}.'])").templates
        assert both == ("a {}.", "one {}.")


@pytest.mark.parametrize("name", [*NO_OFFICIAL_SPLIT, "pacs", "domainnet"])
def test_whole_domains_are_tested_on_where_asked_for(name: str, root: Path) -> None:
    usual = read(root, name)
    every = Counter(row for s in ("train", "validation", "test") for row in rows(usual, root, s))
    whole = read(root, f"{name}(whole_domains=True)")
    assert Counter(rows(whole, root, "test")) == every
    for split in ("train", "validation"):
        assert rows(whole, root, split) == rows(usual, root, split)
    with pytest.raises(ValueError, match=r"server-test.* held-out images are .*trained on|images"):
        load_federation(f"{name}(root={str(root)!r}, whole_domains=True)", "in_distribution")


@pytest.mark.parametrize("name", FILES)
def test_an_image_that_is_none_stops_or_is_skipped(name: str, tmp_path: Path) -> None:
    FILES[name](tmp_path)
    usual = read(tmp_path, name)
    bad = usual.files("test").paths[1]
    bad.write_bytes(b"no image")
    with pytest.raises(ValueError, match=f"{re.escape(str(bad))}: expected JPEG, PNG"):
        usual.split("test")
    skipping = read(tmp_path, f"{name}(on_bad_image='skip')")
    assert len(skipping.split("test")) == len(skipping.files("test")) - 1
    assert any(str(bad) in note for note in skipping.notes)
