"""Label skew by superclass: who has roses has tulips, too.

After the division of CIFAR-100 by Reddi et al. 2021, arXiv 2003.00295 (Pachinko allocation), with
the sizes of ``dirichlet``: theirs are equal.
"""

from __future__ import annotations

import numpy as np

from fl2ora.federated_data.partition._dealing import check_draw
from fl2ora.federated_data.partition.base import ExamplePartitioner, Examples, Indices
from fl2ora.federated_data.partition.dirichlet import Dirichlet


class CoarseDirichlet(ExamplePartitioner):
    """Superclasses are shared out as ``dirichlet`` shares classes.

    What a client has of a superclass is a random part of it, so of all its classes. A class without
    a superclass is one of its own.

    Args:
        beta: concentration; small is skewed, large is like IID.
        minimum: fewest examples of any client.
    """

    def __init__(self, beta: float = 0.5, minimum: int = 10) -> None:
        check_draw(beta, minimum)
        self.beta = beta
        self.minimum = minimum

    def split_examples(
        self, examples: Examples, num_clients: int, rng: np.random.Generator
    ) -> list[Indices]:
        """Share out superclass by superclass; see ``Partitioner.split_examples``."""
        coarse = examples.labels if examples.superclasses is None else examples.superclasses
        return Dirichlet(self.beta, self.minimum).split(coarse, num_clients, rng)
