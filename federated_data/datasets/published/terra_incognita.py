"""Terra Incognita in the folders of DomainBed.

Beery, Van Horn and Perona, "Recognition in Terra Incognita", 2018, arXiv 1807.04975
(https://lila.science/datasets/caltech-camera-traps, CDLA-Permissive 1.0).
"""

from __future__ import annotations

from fl2ora.federated_data.datasets.published._domain_folders import DomainFolders


class TerraIncognita(DomainFolders):
    """Ten kinds of camera-trap pictures at four places; arguments as ``DomainFolders``.

    Pictures of one burst are nearly alike and may fall into different splits: hold a place out.
    """

    folder = "terra_incognita"
    known = ("location_100", "location_38", "location_43", "location_46")
    names = ("location_100", "location_38", "location_43", "location_46")
    classes = (
        "bird",
        "bobcat",
        "cat",
        "coyote",
        "dog",
        "empty",
        "opossum",
        "rabbit",
        "raccoon",
        "squirrel",
    )
    how = (
        "make it by domainbed/scripts/download.py of https://github.com/facebookresearch/DomainBed"
    )
