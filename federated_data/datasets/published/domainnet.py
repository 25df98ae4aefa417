"""DomainNet with its official lists.

Peng et al., "Moment Matching for Multi-Source Domain Adaptation", 2019, arXiv 1812.01754
(https://ai.bu.edu/M3SDA/, the cleaned version; fair use, as its authors say).
"""

from __future__ import annotations

from pathlib import Path

from fl2ora.federated_data.datasets.published._domain_lists import DomainLists
from fl2ora.federated_data.layouts.lists import names_of_folders
from fl2ora.federated_data.store.stored import OnBadImage


class DomainNet(DomainLists):
    """345 kinds of things in six domains; arguments as ``DomainLists``.

    Class names are those of the folders, in the order of the labels in all lists that are there.
    """

    folder = "domainnet"
    images = "."
    lists = ("splits/{}_train.txt", "splits/{}_test.txt")
    first = 0
    known = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
    how = "get the six zip files and their lists from https://ai.bu.edu/M3SDA/ (cleaned version)"

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
        self.class_names = names_of_folders(self._present())

    def _present(self) -> list[Path]:
        """Return all lists that are there, those of domains not asked for too."""
        paths = [self._base / name.format(domain) for domain in self.known for name in self.lists]
        return [path for path in paths if path.is_file()]
