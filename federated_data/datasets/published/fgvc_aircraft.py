"""FGVC-Aircraft in the layout of CoOp.

Maji et al., "Fine-Grained Visual Classification of Aircraft", 2013, arXiv 1306.5151
(https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/, for research).
"""

from __future__ import annotations

import numpy as np

from fl2ora.experiment.arguments import choice
from fl2ora.federated_data.datasets._files import FilesDataset
from fl2ora.federated_data.datasets._templates import as_templates
from fl2ora.federated_data.datasets.base import SplitName
from fl2ora.federated_data.datasets.published._coop import GUIDE
from fl2ora.federated_data.files import FileList
from fl2ora.federated_data.layouts.lists import read_named
from fl2ora.federated_data.layouts.roots import find_root, inside, read_lines, require_files
from fl2ora.federated_data.store.stored import OnBadImage

_LISTS = {
    "train": "images_variant_train.txt",
    "validation": "images_variant_val.txt",
    "test": "images_variant_test.txt",
}


class FGVCAircraft(FilesDataset):
    """100 variants of aircraft in the official splits.

    Args:
        root: the folder that holds ``fgvc_aircraft/`` (``data/`` of the archive, renamed), or that
            folder itself; empty: ``$FL2ORA_DATA_DIR``.
        templates: a prompt with ``{}`` for the class name, or a list of them; empty: the data
            set's own.
        on_bad_image: what to do about an image that cannot be decoded: ``stop``, or ``skip``.

    Raises:
        UserError: the folder lacks ``variants.txt``, one of the three lists or ``images/``.
    """

    templates: tuple[str, ...] = ("a photo of a {}, a type of aircraft.",)

    def __init__(
        self,
        root: str = "",
        templates: str | list[str] = "",
        on_bad_image: OnBadImage = "stop",
    ) -> None:
        expected = ["variants.txt", *_LISTS.values(), "images/"]
        self._base = find_root(root, "fgvc_aircraft", expected, GUIDE)
        self.class_names = tuple(read_lines(self._base / "variants.txt"))
        if templates:
            self.templates = as_templates(templates)
        self.on_bad_image = on_bad_image

    def files(self, name: SplitName) -> FileList:
        """List one split's images in the order of its list.

        Raises:
            UserError: there is no such split, or an image does not exist.
        """
        listed = self._base / _LISTS[choice("split", name, _LISTS)]
        rows = read_named(listed, self.class_names)
        paths = tuple(inside(listed, self._base / "images", f"{image}.jpg") for image, _ in rows)
        require_files(listed, paths)
        labels = np.array([label for _, label in rows], dtype=np.int64)
        return FileList(paths, labels, np.zeros_like(labels))
