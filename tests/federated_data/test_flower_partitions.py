"""Partitioners of flwr-datasets by name: a stand-in for the library, and itself where it is."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import load
from fl2ora.federated_data.partition.base import Examples, Partitioner, PartitionError

pytest.importorskip("datasets")
LABELS = np.arange(40, dtype=np.int64) % 4
EXAMPLES = Examples(LABELS, LABELS % 2, None, LABELS // 2)


class ByColumnPartitioner:
    """Gives the example of row r to client ``column[r] % num_partitions``."""

    def __init__(self, num_partitions: int, partition_by: str, seed: int, spare: int = 0) -> None:
        if spare < 0:
            raise ValueError("spare must not be negative")
        self.num_partitions, self.seed = num_partitions + spare, seed
        self._column = partition_by
        self.dataset: Any = None

    def load_partition(self, number: int) -> Any:
        owners = np.asarray(self.dataset[self._column][:]) % self.num_partitions
        return self.dataset.select(np.flatnonzero(owners == number)[::-1])


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    package, module = ModuleType("flwr_datasets"), ModuleType("flwr_datasets.partitioner")
    vars(module)["ByColumnPartitioner"] = ByColumnPartitioner
    monkeypatch.setitem(sys.modules, "flwr_datasets", package)
    monkeypatch.setitem(sys.modules, "flwr_datasets.partitioner", module)


def split(arguments: str, clients: int = 4, seed: int = 0) -> list[list[int]]:
    made = load(f"flower({arguments!r})", Partitioner)
    shares = made.split_examples(EXAMPLES, clients, np.random.default_rng(seed))
    return [share.tolist() for share in shares]


@pytest.mark.usefixtures("stand_in")
def test_examples_go_where_the_library_sends_them() -> None:
    assert split("ByColumnPartitioner") == [list(range(k, 40, 4)) for k in range(4)]
    by_domain = split("ByColumnPartitioner(partition_by='domain')", 2)
    assert by_domain == [list(range(0, 40, 2)), list(range(1, 40, 2))]
    by_client = split("ByColumnPartitioner(partition_by='client')", 2)
    assert by_client[0] == [row for row in range(40) if row % 4 < 2]


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("ByColumPartitioner", "did you mean 'ByColumnPartitioner'"),
        ("os:system", "expected one of flwr_datasets.partitioner"),
        ("ByColumnPartitioner(4)", "expected arguments by name"),
        ("ByColumnPartitioner(partition_bye='x')", "did you mean 'partition_by'"),
    ],
)
def test_what_the_library_does_not_have_is_refused(arguments: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load(f"flower({arguments!r})", Partitioner)


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("ByColumnPartitioner(spare=1)", "4 clients: ByColumnPartitioner makes 5 parts"),
        ("ByColumnPartitioner(spare=-1)", "4 clients: ByColumnPartitioner: spare must not be"),
        ("ByColumnPartitioner(partition_by='colour')", "4 clients: ByColumnPartitioner: .*colour"),
    ],
)
def test_what_it_cannot_share_out_is_told_with_its_reason(arguments: str, words: str) -> None:
    with pytest.raises(PartitionError, match=words):
        split(arguments)


def test_without_the_library_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flwr_datasets.partitioner", None)
    with pytest.raises(UserError, match="pip install --no-deps flwr-datasets seaborn"):
        load("flower('IidPartitioner')", Partitioner)


@pytest.mark.skipif(find_spec("flwr_datasets") is None, reason="flwr-datasets is not installed")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "arguments",
    [
        "IidPartitioner",
        "LinearPartitioner",
        "SquarePartitioner",
        "ExponentialPartitioner",
        "DirichletPartitioner(alpha=0.5, min_partition_size=1)",
        "ShardPartitioner(num_shards_per_partition=2)",
        "PathologicalPartitioner(num_classes_per_partition=3)",
        "NaturalIdPartitioner(partition_by='domain')",
        "GroupedNaturalIdPartitioner(partition_by='client', group_size=1)",
        "SizePartitioner(partition_sizes=[15, 25])",
        "InnerDirichletPartitioner(partition_sizes=[20, 20], alpha=0.5)",
        "ContinuousPartitioner(partition_by='domain', strictness=0.5)",
    ],
)
def test_each_partitioner_of_the_library_shares_out_everything(arguments: str) -> None:
    shares = split(arguments, 2)
    assert sorted(row for share in shares for row in share) == list(range(40))
    assert split(arguments, 2) == shares
