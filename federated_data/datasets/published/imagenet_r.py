"""ImageNet-R in the layout of CoOp.

Hendrycks et al., "The Many Faces of Robustness", 2021, arXiv 2006.16241
(https://github.com/hendrycks/imagenet-r, MIT).
"""

from __future__ import annotations

from fl2ora.federated_data.datasets.published._imagenet_folders import ImageNetTestSet


class ImageNetR(ImageNetTestSet):
    """Art, cartoons and toys, 200 of ImageNet's classes; arguments as ``ImageNetTestSet``."""

    folder = "imagenet-rendition"
    images = "imagenet-r"
