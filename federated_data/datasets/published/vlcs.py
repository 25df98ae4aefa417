"""VLCS in the folders of DomainBed.

Fang, Xu and Rockmore, "Unbiased Metric Learning: On the Utilization of Multiple Datasets and Web
Images for Softening Bias", 2013 (licences are those of its four sources).
"""

from __future__ import annotations

from fl2ora.federated_data.datasets.published._domain_folders import DomainFolders


class VLCS(DomainFolders):
    """Five kinds of things in photographs of four data sets; arguments as ``DomainFolders``."""

    folder = "VLCS"
    known = ("caltech", "labelme", "pascal", "sun")
    names = ("Caltech101", "LabelMe", "VOC2007", "SUN09")
    classes = ("bird", "car", "chair", "dog", "person")
    how = (
        "get VLCS.tar.gz by domainbed/scripts/download.py of "
        "https://github.com/facebookresearch/DomainBed"
    )
