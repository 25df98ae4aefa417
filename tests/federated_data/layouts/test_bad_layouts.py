"""What a user is told about a data set that is not laid out as published."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import load
from fl2ora.federated_data.checks import check_names
from fl2ora.federated_data.datasets._files import FilesDataset
from fl2ora.federated_data.datasets.base import Dataset
from miniature_layouts import FILES

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole")
    for name in ("caltech101", "oxford_pets", "fgvc_aircraft", "imagenet", "imagenet_v2",
                 "imagenet_a", "pacs", "domainnet", "office_home", "vlcs"):  # fmt: skip
        FILES[name](path)
    return path


@pytest.fixture
def data(whole: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "data"))


def use(name: str, root: Path) -> None:
    """Do all that a run does before it opens an image."""
    dataset = load(f"{name}(root={str(root)!r})", Dataset)
    check_names(dataset)
    assert isinstance(dataset, FilesDataset)
    for split in ("test",) if name.startswith("imagenet_") else SPLITS:
        dataset.files(split)  # type: ignore[arg-type]


def changed_split(
    change: Callable[[dict[str, list[list[object]]]], object],
) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        path = root / "caltech-101/split_zhou_Caltech101.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return damage


def text(path: str, change: Callable[[str], str]) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        (root / path).write_text(change((root / path).read_text()))

    return damage


def removed(path: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        target = root / path
        shutil.rmtree(target) if target.is_dir() else target.unlink()

    return damage


def renamed(path: str, name: str) -> Callable[[Path], None]:
    return lambda root: (root / path).rename((root / path).parent / name) and None


def emptied(path: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        for file in (root / path).iterdir():
            file.unlink()

    return damage


SPLIT = "caltech-101/split_zhou_Caltech101.json"
CASES: list[tuple[str, Callable[[Path], object], str]] = [
    # split files of CoOp
    ("caltech101", removed(SPLIT), r"caltech-101/ with split_zhou_Caltech101.json, 101_ObjectCat.*"
     r"lacks split_zhou_Caltech101.json, found there: 101_ObjectCategories; .*DATASETS.md"),
    ("caltech101", removed("caltech-101"), r"lacks split_zhou_Caltech101.json, 101_ObjectCat.*"
     r"found there: VLCS, domainnet, .* and \d more"),
    ("caltech101", text(SPLIT, lambda t: t[: len(t) // 2]), r"Caltech101.json: expected a whole "
     r"JSON file, found it damaged"),
    ("caltech101", text(SPLIT, lambda t: "[" * 100_000), r"expected a whole JSON file"),
    ("caltech101", text(SPLIT, lambda t: "[]"), r"an object with train, val, test, found list"),
    ("caltech101", changed_split(lambda c: c.pop("val")), r"list with images under 'val', found"),
    ("caltech101", changed_split(lambda c: c["test"].clear()), r"images under 'test', found \[\]"),
    ("caltech101", changed_split(lambda c: c["train"][2].pop()), r"train\[2\]: expected \[path, "),
    ("caltech101", changed_split(lambda c: c["val"].append(["x.jpg", "1", "face"])),
     r"val\[5\]: expected \[path, label, class name\], found \['x.jpg', '1', 'face'\]"),
    ("caltech101", changed_split(lambda c: c["val"].append(["face/x.jpg", 0, "face"])),
     r"split_zhou_Caltech101.json: expected the files it names, found 1 of them missing, the first "
     r".*101_ObjectCategories/face/x.jpg"),
    ("caltech101", changed_split(lambda c: c["test"].append(["../../etc/passwd", 0, "face"])),
     r"expected paths inside .*101_ObjectCategories, found '../../etc/passwd'"),
    ("caltech101", changed_split(lambda c: c["test"].append(["/etc/passwd", 0, "face"])),
     r"expected paths inside .*found '/etc/passwd'"),
    ("caltech101", changed_split(lambda c: c["test"].append(["face/x.jpg", 7, "seven"])),
     r"expected labels 0 to 5, there are 6 classes, found 7"),
    ("caltech101", changed_split(lambda c: c["test"].append(["face/x.jpg", -1, "minus"])),
     r"expected labels 0 to 5, there are 6 classes, found -1"),
    ("caltech101", changed_split(lambda c: c["test"].append(["face/x.jpg", 5, "five"])),
     r"expected a training image of each class, found none of 'five'"),
    ("caltech101", changed_split(lambda c: c["test"].append(["face/x.jpg", 0, "nose"])),
     r"test\[10\]: expected one class name for label 0, found 'nose' and 'face'"),
    ("caltech101", changed_split(lambda c: c["train"].append(["face/x.jpg", 5, "face"])),
     r"expected a name of its own for each class, found 'face' for labels 0 and 5"),
    ("caltech101", changed_split(lambda c: c["train"].append(["face/x.jpg", 5, "FACE "])),
     r"class_names: expected names that differ in more than case, .*'face' .*'FACE '"),
    ("oxford_pets", lambda root: shutil.rmtree(root / "oxford_pets/images"), r"lacks images/"),
    # lists of FGVC-Aircraft
    ("fgvc_aircraft", text("fgvc_aircraft/variants.txt", lambda t: ""),
     r"variants.txt: expected at least one line, found none"),
    ("fgvc_aircraft", text("fgvc_aircraft/variants.txt", lambda t: t.replace("Boeing 717\n", "")),
     r"images_variant_train.txt: line 3: .* one of 3 class names, found '0000002 Boeing 717'"),
    ("fgvc_aircraft", text("fgvc_aircraft/images_variant_val.txt", lambda t: t + "123456\n"),
     r"images_variant_val.txt: line 9: expected an image and one of 4 class names, found '123456'"),
    ("fgvc_aircraft", text("fgvc_aircraft/images_variant_test.txt", lambda t: t + "99 F/A-18\n"),
     r"images_variant_test.txt: expected the files it names, .* the first .*images/99.jpg"),
    ("fgvc_aircraft", text("fgvc_aircraft/variants.txt", lambda t: t + "F/A-18\n"),
     r"class_names: .*'F/A-18'"),
    # ImageNet
    ("imagenet", removed("imagenet/classnames.txt"), r"lacks classnames.txt, found there: images"),
    ("imagenet", text("imagenet/classnames.txt", lambda t: t.replace("n01440764 ", "")),
     r"classnames.txt: line 1: expected a WordNet number of its own and a name.* found 'tench'"),
    ("imagenet", text("imagenet/classnames.txt", lambda t: t + t), r"line 12: expected a WordNet"),
    ("imagenet", renamed("imagenet/images/train/n01440764", "n09999999"),
     r"images/train: expected folders named by WordNet numbers of .*found 'n09999999'"),
    ("imagenet", removed("imagenet/images/val/n01440764"), r"images/val: expected the folders of "
     r".*images/train, found 'n01440764' in one of them alone"),
    ("imagenet", emptied("imagenet/images/val/n01440764"),
     r"n01440764: expected images, found none"),
    ("imagenet", text("imagenet/classnames.txt", lambda t: t.replace("goldfish", "tench")),
     r"class_names: .*'tench' at index 0 and 'tench' at index 1"),
    ("imagenet_v2", renamed("imagenetv2/imagenetv2-matched-frequency-format-val/0", "11"),
     r"expected folders 0 to 10, for the 11 classes of .*, found '11'"),
    ("imagenet_v2", renamed("imagenetv2/imagenetv2-matched-frequency-format-val/0", "n01440764"),
     r"expected folders 0 to 10, .*found 'n01440764'"),
    ("imagenet_a", removed("imagenet-adversarial/imagenet-a"), r"lacks imagenet-a/"),
    # domains with lists
    ("pacs", removed("pacs/splits/photo_crossval_kfold.txt"), r"lacks splits/photo_crossval_kfold"),
    ("pacs", text("pacs/splits/photo_train_kfold.txt", lambda t: t + "photo/dog/x.jpg\n"),
     r"photo_train_kfold.txt: line 29: expected 'image label', found 'photo/dog/x.jpg'"),
    ("pacs", text("pacs/splits/photo_train_kfold.txt", lambda t: t + "photo/dog/x.jpg 0\n"),
     r"line 29: expected labels from 1, found 0"),
    ("pacs", text("pacs/splits/photo_train_kfold.txt", lambda t: t + "photo/dog/x.jpg 8\n"),
     r"image 29: expected one of 7 labels, found the 8th for photo/dog/x.jpg"),
    ("pacs", text("pacs/splits/photo_train_kfold.txt", lambda t: t + "photo/dog/x.jpg 2\n"),
     r"image 29: expected photo/dog/x.jpg with the label of its folder, found that of 'elephant'"),
    ("pacs", text("pacs/splits/photo_train_kfold.txt", lambda t: t + "photo/dog/x.jpg 1\n"),
     r"photo_train_kfold.txt: expected the files it names, .*images/photo/dog/x.jpg"),
    ("domainnet", text("domainnet/splits/real_test.txt", lambda t: t + "real/zebra/x.jpg 0\n"),
     r"real_test.txt: expected a label of its own for each class's folder, found 0 for "
     r"'aircraft_carrier' and 'zebra'"),
    ("domainnet", text("domainnet/splits/real_test.txt", lambda t: t + "real/zebra/x.jpg 4\n"),
     r"expected one label for each class's folder, found 3 and 4 for 'zebra'"),
    ("domainnet", text("domainnet/splits/real_test.txt", lambda t: t + "real/yoga/x.jpg 5\n"),
     r"splits: expected labels 0 to 4, the lists there have 5 classes, found 5"),
    # domains in folders
    ("office_home", removed("office_home/Real World"),
     r"office_home/ with Art/, Clipart/, Product/, Real World/ .*"
     r"lacks Real World/, found there: Art, Clipart, Product"),
    ("office_home", removed("office_home/Clipart/TV"), r"Clipart: expected a folder of each class, "
     r"found none of 'TV'"),
    ("office_home", renamed("office_home/Product/TV", "TVs"), r"Product: expected folders of 5 "
     r"classes, found 'TVs'; did you mean 'TV'"),
    ("vlcs", lambda root: [emptied(f"VLCS/{d}/dog")(root) for d in
                           ("Caltech101", "LabelMe", "VOC2007", "SUN09")],
     r"Caltech101/dog, .*: expected images of 'dog', found none"),
    ("vlcs", lambda root: [removed(f"VLCS/SUN09/{name}")(root) for name in
                           ("bird", "car", "chair", "dog", "person")],
     r"SUN09: expected a folder of each class, found none of 'bird', 'car', 'chair'"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "damage", "message"), CASES)
def test_what_is_amiss_is_named(
    name: str, damage: Callable[[Path], object], message: str, data: Path
) -> None:
    use(name, data)
    damage(data)
    with pytest.raises(UserError, match=message) as caught:
        use(name, data)
    assert "\n" not in str(caught.value)
    assert str(data) in str(caught.value) or "class_names" in message


@pytest.mark.parametrize("name", ["caltech101", "imagenet", "pacs", "office_home", "fgvc_aircraft"])
def test_another_data_sets_folder_is_refused_with_what_was_expected(name: str, whole: Path) -> None:
    for other in ("oxford_pets", "VLCS", "domainnet"):
        with pytest.raises(UserError, match=r"expected .*/ with .*lacks .*found there: \w"):
            use(name, whole / other)
    with pytest.raises(UserError, match=r"found there: nothing"):
        use(name, whole / "absent")


def test_an_unreadable_folder_is_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def guarded(path: Path) -> object:
        if path.name == "dog":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(UserError, match=r"/dog: expected a readable folder, found Permission de"):
        use("vlcs", data)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("vlcs(domains='sun,son')", r"domains: expected one of caltech, labelme, pascal, sun, "
         r"found 'son'; did you mean 'sun'"),
        ("vlcs(domains='sun,sun')", r"domains: expected each domain once, found 'sun' more than"),
        ("vlcs(domains='sun,')", r"domains: expected one of .*found ''"),
        ("vlcs(test=0.0)", r"test: expected a number > 0 and <= 0.5, found 0.0"),
        ("vlcs(validation=0.6)", r"validation: expected a number >= 0 and <= 0.5, found 0.6"),
        ("vlcs(seed=-1)", r"seed: expected a whole number >= 0, found -1"),
        ("pacs(domains='photos')", r"found 'photos'; did you mean 'photo'"),
        ("imagenet(validation=1)", r"validation: .*found 1"),
        ("caltech101(templates=5)", r"templates: expected a text with {} or a list .*found 5"),
        ("fgvc_aircraft(templates=5)", r"templates: expected a text with {} or a list"),
        ("caltech101(folder='x')", r"unexpected keyword argument 'folder'"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(spec: str, message: str, whole: Path) -> None:
    with pytest.raises(UserError, match=message):
        load(f"{spec[:-1]}, root={str(whole)!r})", Dataset)


def test_the_environment_names_an_absolute_folder(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(whole.parent)
    monkeypatch.setenv("FL2ORA_DATA_DIR", whole.name)
    with pytest.raises(UserError, match=r"FL2ORA_DATA_DIR: expected an absolute path, found '"):
        load("vlcs", Dataset)


@pytest.mark.parametrize("name", ["caltech101", "fgvc_aircraft", "imagenet_a", "pacs", "vlcs"])
def test_an_unknown_split_is_named(name: str, whole: Path) -> None:
    dataset = load(f"{name}(root={str(whole)!r})", Dataset)
    assert isinstance(dataset, FilesDataset)
    with pytest.raises(UserError, match=r"split: .*found 'validaton'; did you mean 'validation'"):
        dataset.files("validaton")  # type: ignore[arg-type]
