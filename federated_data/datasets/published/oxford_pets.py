"""Oxford-IIIT Pets in the layout of CoOp.

Parkhi et al., "Cats and Dogs", 2012 (https://www.robots.ox.ac.uk/~vgg/data/pets/, CC BY-SA 4.0).
"""

from __future__ import annotations

from fl2ora.federated_data.datasets.published._coop import CoopDataset


class OxfordPets(CoopDataset):
    """37 breeds of cats and dogs; arguments as ``CoopDataset``."""

    folder = "oxford_pets"
    images = "images"
    split_file = "split_zhou_OxfordPets.json"
    templates = ("a photo of a {}, a type of pet.",)
