"""Office-Home in the folders of its archive.

Venkateswara et al., "Deep Hashing Network for Unsupervised Domain Adaptation", 2017,
arXiv 1706.07522 (https://www.hemanthdv.org/officeHomeDataset.html, for research).
"""

from __future__ import annotations

from fl2ora.federated_data.datasets.published._domain_folders import DomainFolders


class OfficeHome(DomainFolders):
    """65 things of office and home in four domains; arguments as ``DomainFolders``."""

    folder = "office_home"
    known = ("art", "clipart", "product", "real_world")
    names = ("Art", "Clipart", "Product", "Real World")
    how = (
        "get OfficeHomeDataset_10072016.zip from "
        "https://www.hemanthdv.org/officeHomeDataset.html and name what is in it office_home/"
    )
