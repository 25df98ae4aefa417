"""Oxford 102 Flowers in the layout of CoOp.

Nilsback and Zisserman, "Automated Flower Classification over a Large Number of Classes", 2008
(https://www.robots.ox.ac.uk/~vgg/data/flowers/102/, no licence is stated).
"""

from __future__ import annotations

from fl2ora.federated_data.datasets.published._coop import CoopDataset


class OxfordFlowers(CoopDataset):
    """102 kinds of flowers; arguments as ``CoopDataset``."""

    folder = "oxford_flowers"
    images = "jpg"
    split_file = "split_zhou_OxfordFlowers.json"
    templates = ("a photo of a {}, a type of flower.",)
