"""SUN397 in the layout of CoOp.

Xiao et al., "SUN Database: Large-scale Scene Recognition from Abbey to Zoo", 2010
(https://vision.princeton.edu/projects/2010/SUN/, for research).
"""

from __future__ import annotations

from fl2ora.federated_data.datasets.published._coop import CoopDataset


class SUN397(CoopDataset):
    """397 kinds of places; arguments as ``CoopDataset``."""

    folder = "sun397"
    images = "SUN397"
    split_file = "split_zhou_SUN397.json"
