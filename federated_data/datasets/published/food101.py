"""Food-101 in the layout of CoOp.

Bossard, Guillaumin and Van Gool, "Food-101 - Mining Discriminative Components with Random
Forests", 2014 (https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/, for research; the
photographs belong to Foodspotting).
"""

from __future__ import annotations

from fl2ora.federated_data.datasets.published._coop import CoopDataset


class Food101(CoopDataset):
    """101 dishes; arguments as ``CoopDataset``."""

    folder = "food-101"
    images = "images"
    split_file = "split_zhou_Food101.json"
    templates = ("a photo of {}, a type of food.",)
