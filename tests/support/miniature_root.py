"""One root with a miniature of every published data set."""

from __future__ import annotations

from pathlib import Path

from fl2ora.federated_data.datasets.published.cifar100 import CIFAR100
from miniature_layouts import FILES, write_cifar, write_medmnist


def write_all(root: Path) -> Path:
    """Write all miniatures and return the root."""
    for write in FILES.values():
        write(root)
    write_cifar(root, "cifar-10-python", packed=True)
    write_cifar(root, "cifar-100-python", packed=True, coarse_of=CIFAR100.coarse_of)
    write_medmnist(root, "pathmnist", 9, 3)
    write_medmnist(root, "bloodmnist", 8, 3, side=64)
    return root
