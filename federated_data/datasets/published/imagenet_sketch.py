"""ImageNet-Sketch in the layout of CoOp.

Wang et al., "Learning Robust Global Representations by Penalizing Local Predictive Power", 2019,
arXiv 1905.13549 (https://github.com/HaohanWang/ImageNet-Sketch, MIT).
"""

from __future__ import annotations

from fl2ora.federated_data.datasets.published._imagenet_folders import ImageNetTestSet


class ImageNetSketch(ImageNetTestSet):
    """Black and white sketches of ImageNet's 1,000 classes; arguments as ``ImageNetTestSet``."""

    folder = "imagenet-sketch"
    images = "images"
