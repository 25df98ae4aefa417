"""Fashion-MNIST as PNG files with a table that says whose each picture is.

    python docs/examples/fashion_clients.py --out fashion --images 3000 --clients 10

Nobody's name is in the data. Pictures are given to clients by their mean brightness, so that the
clients differ as photographers with other lamps would: each has all classes, and other pictures.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from PIL import Image

from fl2ora.federated_data.datasets.fashion_mnist import FashionMNIST
from fl2ora.federated_data.images import LabelledImages

_FOLDER = "/usr/share/datasets/fashion-mnist"
_COLUMNS = ("path", "label", "client", "split")


def main() -> None:
    """Write ``photos.csv`` and a folder of PNG files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--images", type=int, default=3000, help="training images")
    parser.add_argument("--clients", type=int, default=10, help="how many clients share them")
    parser.add_argument("--validation", type=int, default=5000, help="images of that split")
    parser.add_argument("--folder", default=_FOLDER, help="of Fashion-MNIST's four IDX files")
    arguments = parser.parse_args()
    dataset = FashionMNIST(
        arguments.folder, train=arguments.images, validation=arguments.validation
    )
    train, test = dataset.split("train"), dataset.split("test")
    owners = by_brightness(train, arguments.clients)
    rows = [
        *_written(arguments.out, "train", train, owners),
        *_written(arguments.out, "test", test, ["nobody"] * len(test)),
    ]
    with (arguments.out / "photos.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(_COLUMNS)
        table.writerows(rows)
    print(f"{len(rows)} images in {arguments.out}")


def by_brightness(images: LabelledImages, clients: int) -> list[str]:
    """Return each image's client: equal groups from the darkest to the brightest."""
    means = images.images[:].float().mean(dim=(1, 2, 3)).numpy()
    ranks = np.argsort(np.argsort(means, kind="stable"), kind="stable")
    return [f"photographer {rank * clients // len(means)}" for rank in ranks]


def _written(
    folder: Path, split: str, images: LabelledImages, owners: list[str]
) -> list[tuple[str, str, str, str]]:
    """Write PNG files and return the table's rows."""
    (folder / split).mkdir(parents=True, exist_ok=True)
    rows = []
    for number, owner in enumerate(owners):
        name = f"{split}/{number:05}.png"
        Image.fromarray(images.images[number][0].numpy()).save(folder / name)
        label = FashionMNIST.class_names[int(images.labels[number])]
        rows.append((name, label, owner, split))
    return rows


if __name__ == "__main__":
    main()
