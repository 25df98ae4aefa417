"""Miniatures of published data sets, each in exactly its published layout."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

Row = tuple[str, str, str]  # path below the data set's folder, class name, domain


@dataclass
class Expected:
    """What a reader must find: rows of each split, and class names by label."""

    class_names: tuple[str, ...]
    splits: dict[str, list[Row]] = field(default_factory=dict)


def write_image(path: Path, number: int, side: int = 40) -> None:
    """Write one image, different for every number, in the format its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (5, 5, 3), np.uint8)
    image = Image.fromarray(pixels).resize((side + number % 7, side), Image.Resampling.NEAREST)
    image.save(path)


def _numbers(start: int = 0) -> Iterator[int]:
    while True:
        yield start
        start += 1


def _coop(
    root: Path, folder: str, images: str, file: str, names: Sequence[str], path: str
) -> Expected:
    """Write a ``split_zhou`` data set; ``path`` has ``{label}``, ``{name}`` and ``{n}``."""
    base, numbers = root / folder, _numbers()
    expected = Expected(tuple(names))
    content: dict[str, list[list[object]]] = {}
    for part, split, count in (
        ("train", "train", 4),
        ("val", "validation", 1),
        ("test", "test", 2),
    ):
        content[part], expected.splits[split] = [], []
        for label, name in enumerate(names):
            for _ in range(count):
                n = next(numbers)
                relative = path.format(label=label, name=name, n=n, part=part)
                write_image(base / images / relative, n)
                content[part].append([relative, label, name])
                below = (Path(images) / relative).as_posix()
                expected.splits[split].append((below, name, "all"))
    (base / file).write_text(json.dumps(content), encoding="utf-8")
    return expected


def caltech101(root: Path) -> Expected:
    (root / "caltech-101/101_ObjectCategories/BACKGROUND_Google").mkdir(parents=True)
    return _coop(root, "caltech-101", "101_ObjectCategories", "split_zhou_Caltech101.json",
                 ("face", "leopard", "motorbike", "accordion", "airplane"),
                 "{name}/image_{n:04d}.jpg")  # fmt: skip


def dtd(root: Path) -> Expected:
    (root / "dtd/labels").mkdir(parents=True)
    return _coop(root, "dtd", "images", "split_zhou_DescribableTextures.json",
                 ("banded", "blotchy", "braided", "bubbly"),
                 "{name}/{name}_{n:04d}.jpg")  # fmt: skip


def eurosat(root: Path) -> Expected:
    return _coop(root, "eurosat", "2750", "split_zhou_EuroSAT.json",
                 ("Annual Crop Land", "Forest", "Highway or Road", "Sea or Lake"),
                 "Class{label}/Class{label}_{n}.jpg")  # fmt: skip


def food101(root: Path) -> Expected:
    (root / "food-101/meta").mkdir(parents=True)
    return _coop(root, "food-101", "images", "split_zhou_Food101.json",
                 ("apple_pie", "baby_back_ribs", "baklava", "beef_carpaccio"),
                 "{name}/{n:07d}.jpg")  # fmt: skip


def oxford_flowers(root: Path) -> Expected:
    return _coop(root, "oxford_flowers", "jpg", "split_zhou_OxfordFlowers.json",
                 ("pink primrose", "tiger lily", "canterbury bells", "sweet pea"),
                 "image_{n:05d}.jpg")  # fmt: skip


def oxford_pets(root: Path) -> Expected:
    (root / "oxford_pets/annotations").mkdir(parents=True)
    return _coop(root, "oxford_pets", "images", "split_zhou_OxfordPets.json",
                 ("abyssinian", "american_bulldog", "bengal", "beagle"),
                 "{name}_{n}.jpg")  # fmt: skip


def stanford_cars(root: Path) -> Expected:
    return _coop(root, "stanford_cars", ".", "split_zhou_StanfordCars.json",
                 ("2000 AM General Hummer SUV", "2012 Acura RL Sedan", "2012 Audi TT Hatchback"),
                 "cars_{part}/{n:05d}.jpg")  # fmt: skip


def sun397(root: Path) -> Expected:
    return _coop(root, "sun397", "SUN397", "split_zhou_SUN397.json",
                 ("abbey", "airplane_cabin", "indoor apse", "outdoor athletic_field"),
                 "a/place{label}/sun_a{n:04d}.jpg")  # fmt: skip


def ucf101(root: Path) -> Expected:
    return _coop(root, "ucf101", "UCF-101-midframes", "split_zhou_UCF101.json",
                 ("Apply_Eye_Makeup", "Archery", "Baby_Crawling", "Balance_Beam"),
                 "{name}/v_{name}_g{n:02d}_c01.jpg")  # fmt: skip


def fgvc_aircraft(root: Path) -> Expected:
    base, numbers = root / "fgvc_aircraft", _numbers()
    names = ("707-320", "Boeing 717", "F/A-18", "Fokker 100")
    expected = Expected(names)
    base.mkdir(parents=True)
    (base / "variants.txt").write_text("\n".join(names) + "\n")
    for part, split in (("train", "train"), ("val", "validation"), ("test", "test")):
        rows = [(f"{next(numbers):07d}", name) for name in names for _ in range(2)]
        for number, _ in rows:
            write_image(base / "images" / f"{number}.jpg", int(number))
        lines = "".join(f"{number} {name}\n" for number, name in rows)
        (base / f"images_variant_{part}.txt").write_text(lines)
        expected.splits[split] = [(f"images/{number}.jpg", name, "all") for number, name in rows]
    return expected


CLIPS_NAMES = (
    ("n01440764", "tench"),
    ("n01443537", "goldfish"),
    ("n03773504", "missile"),
    ("n04008634", "missile"),
    ("n04355933", "sunglasses"),
    ("n04356056", "sunglasses"),
    ("n04557648", "water bottle"),
    ("n07747607", "orange"),
    ("n07753275", "pineapple"),
    ("n09246464", "cliff"),
    ("n09472597", "volcano"),
)
APART = (
    "tench", "goldfish", "missile", "projectile", "sunglass", "sunglasses", "water bottle",
    "orange", "pineapple", "cliff", "volcano",
)  # fmt: skip


def _class_names(base: Path) -> None:
    base.mkdir(parents=True, exist_ok=True)
    (base / "classnames.txt").write_text("".join(f"{w} {name}\n" for w, name in CLIPS_NAMES))


def _folders(base: Path, below: str, folders: Sequence[str], names: Sequence[str]) -> list[Row]:
    rows = []
    for label, (folder, name) in enumerate(zip(folders, names, strict=True)):
        for n in range(3):
            path = f"{below}/{folder}/{folder}_{n}.JPEG"
            write_image(base / path, 100 * label + n + sum(map(ord, below)))
            rows.append((path, name, "all"))
    return rows


def imagenet(root: Path) -> Expected:
    base, wnids = root / "imagenet", [wnid for wnid, _ in CLIPS_NAMES]
    _class_names(base)
    return Expected(APART, {
        "train": _folders(base, "images/train", wnids, APART),
        "test": _folders(base, "images/val", wnids, APART),
    })  # fmt: skip


def _imagenet_like(root: Path, folder: str, images: str, lines: Sequence[int]) -> Expected:
    base = root / folder
    _class_names(base)
    names = tuple(APART[line] for line in lines)
    wnids = [CLIPS_NAMES[line][0] for line in lines]
    return Expected(names, {"test": _folders(base, images, wnids, names)})


def imagenet_a(root: Path) -> Expected:
    expected = _imagenet_like(root, "imagenet-adversarial", "imagenet-a", (0, 3, 5))
    (root / "imagenet-adversarial/imagenet-a/README.txt").write_text("as published")
    return expected


def imagenet_r(root: Path) -> Expected:
    return _imagenet_like(root, "imagenet-rendition", "imagenet-r", (1, 2, 4))


def imagenet_sketch(root: Path) -> Expected:
    return _imagenet_like(root, "imagenet-sketch", "images", range(11))


def imagenet_v2(root: Path) -> Expected:
    base = root / "imagenetv2"
    _class_names(base)
    folders = [str(n) for n in range(11)]
    rows = _folders(base, "imagenetv2-matched-frequency-format-val", folders, APART)
    return Expected(APART, {"test": rows})


PACS_NAMES = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
PACS_DOMAINS = ("art_painting", "cartoon", "photo", "sketch")


def pacs(root: Path) -> Expected:
    base, numbers = root / "pacs", _numbers()
    expected = Expected(PACS_NAMES, {"train": [], "test": []})
    (base / "splits").mkdir(parents=True)
    for domain in PACS_DOMAINS:
        lines: dict[str, list[str]] = {"train": [], "crossval": []}
        for label, name in enumerate(PACS_NAMES, 1):
            for n in range(5):
                part = "crossval" if n == 4 else "train"
                path = f"{domain}/{name}/pic_{n:03d}.{'png' if domain == 'sketch' else 'jpg'}"
                write_image(base / "images" / path, next(numbers))
                lines[part].append(f"{path} {label}\n")
                split = "train" if part == "train" else "test"
                expected.splits[split].append((f"images/{path}", name, domain))
        if domain == "sketch":  # as in the published list, whose image some copies lack
            lines["train"].append("sketch/dog/n02103406_4068-1.png 1\n")
        for part, own in (*lines.items(), ("test", [*lines["train"], *lines["crossval"]])):
            (base / f"splits/{domain}_{part}_kfold.txt").write_text("".join(own))
    return expected


def domainnet(root: Path) -> Expected:
    base, numbers = root / "domainnet", _numbers()
    names = ("aircraft_carrier", "t-shirt", "The_Eiffel_Tower", "zebra")
    expected = Expected(names, {"train": [], "test": []})
    (base / "splits").mkdir(parents=True)
    domains = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
    for place, domain in enumerate(domains, 1):
        for split, count in (("train", 4), ("test", 2)):
            lines = []
            for label, name in enumerate(names):
                if (domain, split, name) == ("painting", "train", "t-shirt"):
                    continue  # as in the published list
                for _ in range(count):
                    n = next(numbers)
                    path = f"{domain}/{name}/{domain}_{place:03d}_{n:06d}.jpg"
                    write_image(base / path, n)
                    lines.append(f"{path} {label}\n")
                    expected.splits[split].append((path, name, domain))
            (base / f"splits/{domain}_{split}.txt").write_text("".join(lines))
    return expected


def _domains(
    base: Path, folders: dict[str, str], names: Sequence[str], image: str, lacking: str = ""
) -> Expected:
    numbers, rows = _numbers(), []
    for domain, folder in folders.items():
        for name in names:
            for _ in range(0 if f"{folder}/{name}" == lacking else 10):
                n = next(numbers)
                path = f"{folder}/{name}/{image.format(n=n)}"
                write_image(base / path, n)
                rows.append((path, name, domain))
    return Expected(tuple(names), {"all": rows})


def office_home(root: Path) -> Expected:
    folders = {"art": "Art", "clipart": "Clipart", "product": "Product", "real_world": "Real World"}
    names = ("Alarm_Clock", "Backpack", "Batteries", "TV", "Table")
    return _domains(root / "office_home", folders, names, "{n:05d}.jpg")


def vlcs(root: Path) -> Expected:
    folders = {"caltech": "Caltech101", "labelme": "LabelMe", "pascal": "VOC2007", "sun": "SUN09"}
    names = ("bird", "car", "chair", "dog", "person")
    return _domains(root / "VLCS", folders, names, "{n:032x}.jpg")


def terra_incognita(root: Path) -> Expected:
    folders = {name: name for name in ("location_100", "location_38", "location_43", "location_46")}
    names = ("bird", "bobcat", "cat", "coyote", "dog", "empty", "opossum", "rabbit", "raccoon",
             "squirrel")  # fmt: skip
    base = root / "terra_incognita"
    return _domains(base, folders, names, "{n:08x}-23d2-11e8-a6a3-ec086b02610b.jpg",
                    lacking="location_38/opossum")  # fmt: skip


FILES: dict[str, Callable[[Path], Expected]] = {
    made.__name__: made
    for made in (
        caltech101, dtd, eurosat, food101, oxford_flowers, oxford_pets, stanford_cars, sun397,
        ucf101, fgvc_aircraft, imagenet, imagenet_a, imagenet_r, imagenet_sketch, imagenet_v2,
        pacs, domainnet, office_home, vlcs, terra_incognita,
    )
}  # fmt: skip
"""Under the name of each data set of files: what writes its miniature below a root."""


# CIFAR. Batches are pickles as Python 2's cPickle wrote them, put together opcode by opcode.


def cifar_pixels(seed: int, count: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), np.uint8)


def _text(text: str) -> bytes:
    return b"U" + bytes([len(text)]) + text.encode()


def _list(values: Sequence[int]) -> bytes:
    return b"](" + b"".join(b"K" + bytes([value]) for value in values) + b"e"


def python2_batch(pixels: np.ndarray[tuple[int, int], np.dtype[np.uint8]],
                  **labels: Sequence[int]) -> bytes:  # fmt: skip
    """Return a pickle of protocol 2 with ``data`` and lists of labels."""
    raw = pixels.tobytes()
    shape = b"".join(b"M" + n.to_bytes(2, "little") for n in pixels.shape)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85q\x03"
        + _text("b") + b"\x87Rq\x04(K\x01" + shape + b"\x86cnumpy\ndtype\nq\x05" + _text("u1")
        + b"K\x00K\x01\x87Rq\x06(K\x03" + _text("|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T" + len(raw).to_bytes(4, "little")
        + raw + b"tb"
    )  # fmt: skip
    items = b"".join(_text(name) + _list(values) for name, values in labels.items())
    return (
        b"\x80\x02}q\x00(" + _text("batch_label") + _text("training batch 1 of 5") + items
        + _text("data") + array + b"u."
    )  # fmt: skip


@dataclass
class CifarParts:
    """Images ``(n, 3072)`` and labels of each file, as one long training part and a test part."""

    images: dict[str, np.ndarray[tuple[int, int], np.dtype[np.uint8]]] = field(default_factory=dict)
    labels: dict[str, list[int]] = field(default_factory=dict)


def _files_of_cifar(
    version: str, coarse_of: Sequence[int] | None
) -> tuple[CifarParts, dict[str, bytes]]:
    """Return parts and the content of every file of a version."""
    classes, each = (10, 8) if coarse_of is None else (100, 100)
    names = {
        "cifar-10-python": [*[f"data_batch_{n}" for n in range(1, 6)], "test_batch"],
        "cifar-10-binary": [*[f"data_batch_{n}.bin" for n in range(1, 6)], "test_batch.bin"],
        "cifar-100-python": ["train", "test"],
        "cifar-100-binary": ["train.bin", "test.bin"],
    }[version]
    parts, files = CifarParts(), {}
    for number, name in enumerate(names):
        part = "test" if "test" in name else "train"
        pixels = cifar_pixels(number, each)
        labels = [(3 * n + number) % classes for n in range(each)]
        before = parts.images.get(part, pixels[:0])
        parts.images[part] = np.concatenate([before, pixels])
        parts.labels[part] = [*parts.labels.get(part, []), *labels]
        coarse = None if coarse_of is None else [coarse_of[label] for label in labels]
        if version.endswith("python"):
            given = {"labels": labels} if coarse is None else {
                "fine_labels": labels, "coarse_labels": coarse
            }  # fmt: skip
            files[name] = python2_batch(pixels, **given)
        else:
            columns = [labels] if coarse is None else [coarse, labels]
            heads = np.array(columns, dtype=np.uint8).T
            files[name] = np.concatenate([heads, pixels], axis=1).tobytes()
    files["readme.html"] = b"<html></html>"
    return parts, files


EXTRACTED = {
    "cifar-10-python": "cifar-10-batches-py", "cifar-10-binary": "cifar-10-batches-bin",
    "cifar-100-python": "cifar-100-python", "cifar-100-binary": "cifar-100-binary",
}  # fmt: skip


def write_cifar(
    root: Path, version: str, packed: bool, coarse_of: Sequence[int] | None = None
) -> CifarParts:
    """Write a version such as ``cifar-10-python``, as its folder or as its archive."""
    parts, files = _files_of_cifar(version, coarse_of)
    folder = EXTRACTED[version]
    root.mkdir(parents=True, exist_ok=True)
    if not packed:
        (root / folder).mkdir()
        for name, content in files.items():
            (root / folder / name).write_bytes(content)
        return parts
    with tarfile.open(root / f"{version}.tar.gz", "w:gz") as archive:
        head = tarfile.TarInfo(folder)
        head.type = tarfile.DIRTYPE
        archive.addfile(head)
        for name, content in files.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return parts


def write_medmnist(
    root: Path, name: str, classes: int, channels: int, side: int = 28
) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    """Write a set of MedMNIST and return its arrays."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 4 * classes), ("val", classes), ("test", 2 * classes)):
        shape = (count, side, side) if channels == 1 else (count, side, side, 3)
        arrays[f"{part}_images"] = rng.integers(0, 256, shape, np.uint8)
        arrays[f"{part}_labels"] = (np.arange(count) % classes).astype(np.uint8)[:, None]
    (root / "medmnist").mkdir(parents=True, exist_ok=True)
    file = f"{name}.npz" if side == 28 else f"{name}_{side}.npz"
    np.savez_compressed(root / "medmnist" / file, **arrays)  # type: ignore[arg-type]
    return arrays
