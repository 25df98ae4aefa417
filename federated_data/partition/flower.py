"""The partitioners of Flower's library ``flwr-datasets``, by their names."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import numpy as np

from fl2ora.experiment.errors import UserError, listed, nearest, shown
from fl2ora.experiment.spec import parse_spec
from fl2ora.federated_data.partition.base import (
    ExamplePartitioner,
    Examples,
    Indices,
    PartitionError,
)

_MODULE = "flwr_datasets.partitioner"
_INSTALL = "pip install --no-deps flwr-datasets seaborn, and pip install 'fl2ora[hub]'"
_ROW = "row"


class Flower(ExamplePartitioner):
    """Shares out as a partitioner of ``flwr_datasets.partitioner`` does.

    It sees the columns ``label``, ``domain`` and, where there are such, ``client``.

    Args:
        partitioner: its name and arguments, such as ``"DirichletPartitioner(alpha=0.5)"``. The
            number of clients is the run's; ``partition_by`` is ``label`` and ``seed`` follows from
            the run's unless they are given.

    Raises:
        UserError: the library is not installed, or has no such partitioner.
    """

    def __init__(self, partitioner: str) -> None:
        spec = parse_spec(partitioner)
        try:
            library = import_module(_MODULE)
        except ImportError as error:
            raise UserError(f"{_MODULE} cannot be imported ({error}): {_INSTALL}") from None
        names = [name for name in dir(library) if name.endswith("Partitioner")]
        if spec.module or spec.name not in names:
            raise UserError(
                f"partitioner: expected one of {_MODULE} ({listed(names)}), "
                f"found {shown(partitioner)}{nearest(spec.name, names)}"
            )
        if spec.args:
            raise UserError(f"partitioner: expected arguments by name, found {shown(partitioner)}")
        self._name, self._arguments = spec.name, spec.kwargs
        self._kind = getattr(library, spec.name)
        known = inspect.signature(self._kind).parameters
        unknown = sorted(spec.kwargs.keys() - known.keys())
        if unknown:
            raise UserError(
                f"partitioner: {spec.name} takes {listed(known)}, found {unknown[0]!r}"
                f"{nearest(unknown[0], known)}"
            )
        self._known = known.keys()

    def split_examples(
        self, examples: Examples, num_clients: int, rng: np.random.Generator
    ) -> list[Indices]:
        """Let the library share out; see ``Partitioner.split_examples``."""
        seed = int(rng.integers(2**31))
        ours = {"num_partitions": num_clients, "partition_by": "label", "seed": seed}
        arguments = {key: value for key, value in ours.items() if key in self._known}
        try:
            made = self._kind(**(arguments | self._arguments))
            made.dataset = _table(examples)
            if made.num_partitions != num_clients:
                raise PartitionError(
                    f"{num_clients} clients: {self._name} makes {made.num_partitions} parts"
                )
            parts = [made.load_partition(number) for number in range(num_clients)]
        except PartitionError:
            raise
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise PartitionError(f"{num_clients} clients: {self._name}: {error}") from error
        return [np.sort(np.asarray(part[_ROW][:], dtype=np.int64)) for part in parts]


def _table(examples: Examples) -> Any:
    """Return the examples as the library wants them."""
    from datasets import Dataset  # an extra

    columns = {
        "label": examples.labels,
        "domain": examples.domains,
        "client": examples.clients,
        _ROW: np.arange(len(examples)),
    }
    return Dataset.from_dict(
        {name: column.tolist() for name, column in columns.items() if column is not None}
    )
