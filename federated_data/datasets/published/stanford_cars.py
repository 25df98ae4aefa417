"""Stanford Cars in the layout of CoOp.

Krause et al., "3D Object Representations for Fine-Grained Categorization", 2013
(https://ai.stanford.edu/~jkrause/cars/car_dataset.html, for research).
"""

from __future__ import annotations

from fl2ora.federated_data.datasets.published._coop import CoopDataset


class StanfordCars(CoopDataset):
    """196 models of cars, in ``cars_train`` and ``cars_test``; arguments as ``CoopDataset``."""

    folder = "stanford_cars"
    images = "."
    split_file = "split_zhou_StanfordCars.json"
