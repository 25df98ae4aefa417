"""What each client holds: its share of a federation, divided once more into training and test."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from fl2ora.experiment.blame import blaming
from fl2ora.experiment.errors import UserError, problems_of
from fl2ora.experiment.image_fit import Fit
from fl2ora.experiment.plugins import load
from fl2ora.experiment.seeds import derive_seed
from fl2ora.federated_data.checks import check_federation, check_names
from fl2ora.federated_data.datasets.base import Dataset
from fl2ora.federated_data.images import LabelledImages
from fl2ora.federated_data.partition.base import Partitioner, PartitionError, checked_shares
from fl2ora.federated_data.protocols.base import Federation, Protocol


@dataclass(frozen=True)
class ClientData:
    """One client's images.

    Attributes:
        train: what it trains on.
        test: what it only measures on (``clients-test``); may be empty.
        calibration: what post-hoc calibrators are fitted on, neither trained on nor measured on;
            may be empty.
    """

    train: LabelledImages
    test: LabelledImages
    calibration: LabelledImages


def check_plugins(dataset: str, protocol: str, partition: str) -> list[str]:
    """Return a sentence for each spec that names no plug-in or gives it wrong arguments."""
    return problems_of(
        {
            "dataset": lambda: load(dataset, Dataset),
            "protocol": lambda: load(protocol, Protocol),
            "partition": lambda: load(partition, Partitioner),
        }
    )


@lru_cache(maxsize=2)
def load_federation(dataset: str, protocol: str, fit: Fit | None = None) -> Federation:
    """Load the data that two specs describe; the last two are kept in memory.

    Nothing else reads images, so that a run reads its data once in each process.

    Args:
        dataset: spec.
        protocol: spec.
        fit: how the run's model wants images of any size; None: as CLIP does at 224 pixels.

    Raises:
        UserError: an unknown name or argument, or data that is missing or broken, see ``checks``.
    """
    source = load(dataset, Dataset)
    arrangement = load(protocol, Protocol)
    with blaming(source):
        try:
            check_names(source)
            if fit is not None:
                source.prepare(fit)
            federation = arrangement.arrange(source)
            found = check_federation(federation)
        except (OSError, ValueError) as error:
            raise UserError(f"dataset {dataset!r}: {error}") from error
    return replace(federation, notes=(*source.notes, *federation.notes, *found))


def share_out(
    federation: Federation, partition: str, num_clients: int, seed: int
) -> list[LabelledImages]:
    """Divide the training data among ``num_clients``; equal arguments give equal shares.

    Raises:
        UserError: the partition cannot be made, with the reason; or a partitioner of somebody's own
            made something else.
    """
    partitioner = load(partition, Partitioner)
    rng = np.random.default_rng(derive_seed(seed, "partition"))
    labels = federation.train.labels.numpy()
    with blaming(partitioner):
        try:
            shares = partitioner.split(labels, num_clients, rng)
            shares = checked_shares(shares, len(labels), num_clients)
        except PartitionError as error:
            raise UserError(f"partition {partition!r}: {error}") from error
    return [federation.train.select(torch.from_numpy(share)) for share in shares]


def divide(
    images: LabelledImages,
    test_fraction: float,
    seed: int,
    client: str,
    calibration_fraction: float = 0.0,
) -> ClientData:
    """Hold out random parts of one client's images; at least one image stays to train on.

    What is held out for measuring does not depend on how much is held out for calibrating.
    """
    rng = np.random.default_rng(derive_seed(seed, "local-test", client))
    order = torch.from_numpy(rng.permutation(len(images)))
    held_out = min(round(len(images) * test_fraction), max(0, len(images) - 1))
    kept = min(round(len(images) * calibration_fraction), max(0, len(images) - 1 - held_out))
    return ClientData(
        train=images.select(order[held_out + kept :].sort().values),
        test=images.select(order[:held_out].sort().values),
        calibration=images.select(order[held_out : held_out + kept].sort().values),
    )
