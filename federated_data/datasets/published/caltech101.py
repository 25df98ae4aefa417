"""Caltech101 in the layout of CoOp.

Fei-Fei, Fergus and Perona, "Learning Generative Visual Models from Few Training Examples", 2004
(https://data.caltech.edu/records/mzrjq-6wc02, CC BY 4.0).
"""

from __future__ import annotations

from fl2ora.federated_data.datasets.published._coop import CoopDataset


class Caltech101(CoopDataset):
    """100 kinds of objects, without background and easy faces; arguments as ``CoopDataset``."""

    folder = "caltech-101"
    images = "101_ObjectCategories"
    split_file = "split_zhou_Caltech101.json"
