"""The middle frames of UCF101 in the layout of CoOp.

Soomro, Zamir and Shah, "UCF101: A Dataset of 101 Human Actions Classes From Videos in The Wild",
2012, arXiv 1212.0402 (https://www.crcv.ucf.edu/data/UCF101.php, no licence is stated).
"""

from __future__ import annotations

from fl2ora.federated_data.datasets.published._coop import CoopDataset


class UCF101(CoopDataset):
    """101 actions, one frame of each video; arguments as ``CoopDataset``."""

    folder = "ucf101"
    images = "UCF-101-midframes"
    split_file = "split_zhou_UCF101.json"
    templates = ("a photo of a person doing {}.",)
