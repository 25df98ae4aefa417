"""ImageNet-A in the layout of CoOp.

Hendrycks et al., "Natural Adversarial Examples", 2021, arXiv 1907.07174
(https://github.com/hendrycks/natural-adv-examples, MIT).
"""

from __future__ import annotations

from fl2ora.federated_data.datasets.published._imagenet_folders import ImageNetTestSet


class ImageNetA(ImageNetTestSet):
    """Photographs that fooled a ResNet, 200 of ImageNet's classes.

    Arguments as ``ImageNetTestSet``.
    """

    folder = "imagenet-adversarial"
    images = "imagenet-a"
