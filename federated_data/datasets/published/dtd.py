"""The Describable Textures Dataset in the layout of CoOp.

Cimpoi et al., "Describing Textures in the Wild", 2014
(https://www.robots.ox.ac.uk/~vgg/data/dtd/, for research).
"""

from __future__ import annotations

from fl2ora.federated_data.datasets.published._coop import CoopDataset


class DTD(CoopDataset):
    """47 kinds of textures; arguments as ``CoopDataset``."""

    folder = "dtd"
    images = "images"
    split_file = "split_zhou_DescribableTextures.json"
    templates = ("{} texture.",)
