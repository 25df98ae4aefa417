"""CIFAR-10 from its python or binary version.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009
(https://www.cs.toronto.edu/~kriz/cifar.html, no licence is stated).
"""

from __future__ import annotations

from fl2ora.federated_data.datasets.published._cifar import Cifar
from fl2ora.federated_data.layouts.cifar import CIFAR10 as VERSIONS


class CIFAR10(Cifar):
    """Ten kinds of vehicles and animals; arguments as ``Cifar``."""

    class_names = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
    versions = VERSIONS
