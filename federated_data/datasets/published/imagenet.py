"""ImageNet (ILSVRC 2012) in the layout of CoOp.

Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", 2015, arXiv 1409.0575
(https://image-net.org/download.php, for research, on request).
"""

from __future__ import annotations

from fl2ora.experiment.arguments import LARGEST, choice, number, whole
from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.datasets._files import FilesDataset
from fl2ora.federated_data.datasets.base import SplitName
from fl2ora.federated_data.datasets.published._coop import GUIDE
from fl2ora.federated_data.datasets.published._imagenet_folders import classes_in, listed_images
from fl2ora.federated_data.files import FileList
from fl2ora.federated_data.layouts.draw import TRAIN, VALIDATION, draw_parts
from fl2ora.federated_data.layouts.imagenet import images_of_classes, read_class_names
from fl2ora.federated_data.layouts.roots import find_root, subfolders
from fl2ora.federated_data.store.stored import OnBadImage


class ImageNet(FilesDataset):
    """1,000 kinds of things, or as many of them as have a folder.

    The test split is ``images/val``, as is usual; part of ``images/train`` is for validation.

    Args:
        root: the folder that holds ``imagenet/`` with ``classnames.txt``, ``images/train/`` and
            ``images/val/``, or that folder itself; empty: ``$FL2ORA_DATA_DIR``.
        validation: share of each class's training images for the validation split.
        seed: another one draws other images for validation.
        on_bad_image: what to do about an image that cannot be decoded: ``stop``, or ``skip``.

    Raises:
        UserError: one of them is missing, a folder is no class's, or an argument out of its range.
    """

    templates = ("a photo of a {}.",)

    def __init__(
        self,
        root: str = "",
        validation: float = 0.01,
        seed: int = 0,
        on_bad_image: OnBadImage = "stop",
    ) -> None:
        self._validation = number("validation", validation, at_least=0, at_most=0.5)
        self._seed = whole("seed", seed, at_least=0, at_most=LARGEST)
        self.on_bad_image = on_bad_image
        expected = ["classnames.txt", "images/train/", "images/val/"]
        base = find_root(root, "imagenet", expected, GUIDE)
        self._train, self._test = base / "images" / "train", base / "images" / "val"
        names = read_class_names(base / "classnames.txt")
        self._classes = classes_in(self._train, names, base / "classnames.txt")
        odd = sorted(set(subfolders(self._test)) ^ set(self._classes))
        if odd:
            raise UserError(
                f"{self._test}: expected the folders of {self._train}, found {odd[0]!r} in one of "
                "them alone"
            )
        self.class_names = tuple(names[wnid] for wnid in self._classes)
        self.notes = ("ImageNet is tested on its validation images",)
        if self._validation:
            self.notes += (
                f"{self._validation:.0%} of each class's training images are drawn for validation, "
                f"by file name and seed {self._seed}",
            )

    def files(self, name: SplitName) -> FileList:
        """List one split's images, class by class.

        Raises:
            UserError: there is no such split, or a class has no image.
        """
        if choice("split", name, ("train", "validation", "test")) == "test":
            return listed_images(images_of_classes(self._test, self._classes))
        rows = images_of_classes(self._train, self._classes)
        groups, names = [(label,) for _, label in rows], [path.name for path, _ in rows]
        parts = draw_parts(groups, names, self._validation, 0.0, self._seed)
        wanted = VALIDATION if name == "validation" else TRAIN
        return listed_images([row for row, part in zip(rows, parts, strict=True) if part == wanted])
