"""EuroSAT in the layout of CoOp.

Helber et al., "EuroSAT: A Novel Dataset and Deep Learning Benchmark for Land Use and Land Cover
Classification", 2019, arXiv 1709.00029 (https://github.com/phelber/EuroSAT, MIT).
"""

from __future__ import annotations

from fl2ora.federated_data.datasets.published._coop import CoopDataset


class EuroSAT(CoopDataset):
    """Ten kinds of land seen from a satellite, 64x64; arguments as ``CoopDataset``."""

    folder = "eurosat"
    images = "2750"
    split_file = "split_zhou_EuroSAT.json"
    templates = ("a centered satellite photo of {}.",)
