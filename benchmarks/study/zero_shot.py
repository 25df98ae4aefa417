"""Accuracy and calibration of the study's model on each kind of picture, without any tuning.

Run as ``python -m benchmarks.study.zero_shot``, where the folder ``study`` is.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.study.pictures import NEW_CLASSES, SEEN_CLASSES
from fl2ora.clip_tuning.clip import load_clip
from fl2ora.federated_data.datasets.base import Dataset
from fl2ora.federated_data.datasets.fashion_mnist import FashionMNIST
from fl2ora.federated_data.datasets.folder import Folder
from fl2ora.federated_data.datasets.shapes import Shapes
from fl2ora.pretraining.check import zero_shot

FOLDER = Path("study")
TEMPLATE = "an emoji of a {}."


def pictures() -> dict[str, Dataset]:
    """Return what is measured, by what it is called in the table."""
    found: dict[str, Dataset] = {
        f"emoji, {vendors} vendors, {len(names)} {classes} classes": Folder(
            str(FOLDER / "emoji"),
            table_file=str(FOLDER / "emoji" / f"{vendors}-vendors-{classes}-classes.csv"),
            templates=TEMPLATE,
        )
        for classes, names in (("seen", SEEN_CLASSES), ("new", NEW_CLASSES))
        for vendors in ("seen", "new")
    }
    found["drawings, 16 shapes in seen styles"] = Shapes(styles="seen", test=1000)
    found["drawings, 16 shapes in new styles"] = Shapes(styles="held-back", test=1000)
    found["Fashion-MNIST, 10 classes"] = FashionMNIST()
    return found


def main() -> None:
    """Print a Markdown table."""
    clip = load_clip(str(FOLDER / "clip"))
    print("| test pictures | chance | accuracy | confidence | ECE |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, dataset in pictures().items():
        row, chance = zero_shot(clip, dataset, name), 1 / len(dataset.class_names)
        cells = (chance, row.accuracy, row.confidence, row.ece)
        print(f"| {name} | {' | '.join(f'{100 * cell:.1f}' for cell in cells)} |")


if __name__ == "__main__":
    main()
