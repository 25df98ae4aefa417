"""Counts of who holds what, against a federation small enough to count by hand."""

from __future__ import annotations

import torch

from fl2ora.client_app.node import Node
from fl2ora.experiment.config import RunConfig
from fl2ora.federated_data.holdings import by_client, count_images, divided
from fl2ora.federated_data.images import LabelledImages
from fl2ora.federated_data.protocols.base import Federation
from fl2ora.federated_data.shares import ClientData, load_federation
from runs import SMALL


def images(labels: list[int], domains: list[int]) -> LabelledImages:
    pixels = torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8)
    return LabelledImages(pixels, torch.tensor(labels).long(), torch.tensor(domains).long())


NONE = images([], [])
CLIENTS = {
    "north": ClientData(images([1, 1, 0], [0, 1, 1]), images([1], [1]), images([0], [0])),
    "empty": ClientData(NONE, NONE, NONE),
    "south": ClientData(images([2], [0]), NONE, NONE),
}
FEDERATION = Federation(NONE, (), ("cat", "dog", "owl"), ("a {}.",), ("photo", "sketch"))


def test_images_are_counted_by_client_part_class_and_domain() -> None:
    counts = count_images(FEDERATION, CLIENTS)
    assert list(counts.columns) == ["client", "part", "label", "class", "domain", "images"]
    assert counts.to_numpy().tolist() == [
        ["north", "train", 0, "cat", "sketch", 1],
        ["north", "train", 1, "dog", "photo", 1],
        ["north", "train", 1, "dog", "sketch", 1],
        ["north", "test", 1, "dog", "sketch", 1],
        ["north", "calibration", 0, "cat", "photo", 1],
        ["south", "train", 2, "owl", "photo", 1],
    ]


def test_sums_of_clients_that_hold_something_or_nothing() -> None:
    table = by_client(count_images(FEDERATION, CLIENTS), CLIENTS)
    assert table.to_dict("records") == [
        {
            "client": "north", "images": 5, "train": 3, "test": 1, "calibration": 1,
            "classes": 2, "domains": 2, "most": "dog", "share": 0.6,
        },
        {
            "client": "empty", "images": 0, "train": 0, "test": 0, "calibration": 0,
            "classes": 0, "domains": 0, "most": "", "share": 0.0,
        },
        {
            "client": "south", "images": 1, "train": 1, "test": 0, "calibration": 0,
            "classes": 1, "domains": 1, "most": "owl", "share": 1.0,
        },
    ]  # fmt: skip


def test_clients_are_shown_with_what_nodes_hold() -> None:
    config = RunConfig.from_flat({**SMALL, "num-clients": 3})  # type: ignore[dict-item]
    federation = load_federation(config.dataset, config.protocol)
    fractions = config.local_test_fraction, config.calibration_fraction
    shares = divided(federation, config.partition, 3, config.seed, fractions)
    assert list(shares) == ["0", "1", "2"]
    for index, (_, found) in enumerate(shares.items()):
        node = {"partition-id": index, "num-partitions": 3}
        expected = Node.from_configs(config.flat(), node, 77).data
        for part in ("train", "test", "calibration"):
            mine, theirs = getattr(found, part), getattr(expected, part)
            assert torch.equal(mine.images[:], theirs.images[:])
            assert len(theirs)
