"""ImageNetV2, matched frequency, in the layout of CoOp.

Recht et al., "Do ImageNet Classifiers Generalize to ImageNet?", 2019, arXiv 1902.10811
(https://github.com/modestyachts/ImageNetV2, MIT).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.datasets.published._imagenet_folders import ImageNetTestSet
from fl2ora.federated_data.layouts.roots import subfolders


class ImageNetV2(ImageNetTestSet):
    """New photographs of ImageNet's 1,000 classes; arguments as ``ImageNetTestSet``.

    Its folders are called 0 to 999, for the WordNet numbers of ``classnames.txt`` in order.
    """

    folder = "imagenetv2"
    images = "imagenetv2-matched-frequency-format-val"

    def classes(
        self, names: Mapping[str, str], source: Path
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the numbered folders in order, and the names of those classes."""
        found = subfolders(self._images)
        wnids = sorted(names)
        for name in found:
            if not name.isdecimal() or int(name) >= len(wnids):
                raise UserError(
                    f"{self._images}: expected folders 0 to {len(wnids) - 1}, for the "
                    f"{len(wnids)} classes of {source}, found {name!r}"
                )
        if not found:
            raise UserError(f"{self._images}: expected folders 0 to {len(wnids) - 1}, found none")
        folders = tuple(sorted(found, key=int))
        return folders, tuple(names[wnids[int(name)]] for name in folders)
