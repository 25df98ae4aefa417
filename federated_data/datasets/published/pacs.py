"""PACS with the lists of its authors.

Li et al., "Deeper, Broader and Artier Domain Generalization", 2017, arXiv 1710.03077 (no licence is
stated).
"""

from __future__ import annotations

from fl2ora.federated_data.datasets.published._domain_lists import DomainLists
from fl2ora.federated_data.store.stored import OnBadImage


class PACS(DomainLists):
    """Seven kinds of things in four styles; arguments as ``DomainLists``.

    ``<domain>_train_kfold.txt`` is divided into training and validation, and
    ``<domain>_crossval_kfold.txt`` is the test split. ``<domain>_test_kfold.txt`` is not read: it
    lists the whole domain, training images too.
    """

    class_names = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
    folder = "pacs"
    images = "images"
    lists = ("splits/{}_train_kfold.txt", "splits/{}_crossval_kfold.txt")
    first = 1
    known = ("art_painting", "cartoon", "photo", "sketch")
    broken = "sketch/dog/n02103406_4068-1.png"
    how = (
        "get images/ and splits/ as "
        "https://github.com/KaiyangZhou/Dassl.pytorch/blob/master/DATASETS.md says"
    )

    def __init__(
        self,
        root: str = "",
        domains: str = "",
        validation: float = 0.1,
        seed: int = 0,
        whole_domains: bool = False,
        on_bad_image: OnBadImage = "stop",
    ) -> None:
        super().__init__(root, domains, validation, seed, whole_domains, on_bad_image)
        self.notes = (
            "PACS is tested on its crossval lists; its test lists hold the training images, too",
            *self.notes,
        )
