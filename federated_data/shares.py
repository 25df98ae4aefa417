"""What each client holds: its share of a federation, divided once more into training and test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from fl2ora.experiment.blame import blaming, innermost
from fl2ora.experiment.errors import UserError, problems_of
from fl2ora.experiment.image_fit import Fit
from fl2ora.experiment.plugins import load
from fl2ora.experiment.seeds import derive_seed
from fl2ora.federated_data.checks import check_arrangement, check_federation, check_names
from fl2ora.federated_data.datasets.base import Dataset
from fl2ora.federated_data.few import few_of_each
from fl2ora.federated_data.images import LabelledImages
from fl2ora.federated_data.leaks import OnLeak, leaks_among_clients, without_leaks
from fl2ora.federated_data.partition.base import (
    Examples,
    Partitioner,
    PartitionError,
    checked_shares,
)
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


NO_DATA = "none"
"""The dataset of a run whose server has none."""


def check_plugins(dataset: str, protocol: str, partition: str) -> list[str]:
    """Return a sentence for each spec that names no plug-in or gives it wrong arguments."""
    return problems_of(
        {
            "dataset": lambda: _images_of(dataset),
            "protocol": lambda: load(protocol, Protocol),
            "partition": lambda: load(partition, Partitioner),
        }
    )


def _images_of(dataset: str) -> Dataset:
    if dataset == NO_DATA:
        raise UserError(f"expected images to look at, found {dataset!r}: a server without data")
    return load(dataset, Dataset)


@lru_cache(maxsize=2)
def load_federation(
    dataset: str,
    protocol: str,
    fit: Fit | None = None,
    on_leak: OnLeak = "stop",
    own: bool = False,
) -> Federation:
    """Load the data that two specs describe; the last two are kept in memory.

    Nothing else reads images, so that a run reads its data once in each process.

    Args:
        dataset: spec.
        protocol: spec.
        fit: how the run's model wants images of any size; None: as CLIP does at 224 pixels.
        on_leak: what to do about images that are trained on and held out; see ``without_leaks``.
        own: the dataset is one node's; see ``Protocol.arrange_own``.

    Raises:
        UserError: an unknown name or argument, or data that is missing or broken, see ``checks``.
    """
    if dataset == NO_DATA:
        raise UserError(
            "dataset: the run has none to share out (dataset = 'none'): expected dataset=... in "
            "the node's config"
        )
    source = load(dataset, Dataset)
    arrangement = load(protocol, Protocol)
    others = () if own else arrangement.others
    arrange = arrangement.arrange_own if own else arrangement.arrange
    with _telling(source, dataset):
        for described in (source, *others):
            check_names(described)
            if fit is not None:
                described.prepare(fit)
    try:
        federation = arrange(source)
    except Exception as error:
        if innermost(error, arrangement, source) is arrangement:
            with _telling(arrangement, protocol, "protocol"):
                raise
        with _telling(source, dataset):
            raise
    with _telling(arrangement, protocol, "protocol"):
        check_arrangement(federation)
    with _telling(source, dataset):
        check_federation(federation, own=own)
        federation = without_leaks(federation, on_leak)
    notes = (note for other in others for note in other.notes)
    return replace(federation, notes=(*source.notes, *notes, *federation.notes))


@contextmanager
def _telling(plugin: Dataset | Protocol, spec: str, key: str = "dataset") -> Iterator[None]:
    """Name what an error is of: by its key where it is about the data, else file and line too."""
    with blaming(plugin):
        try:
            yield
        except (OSError, ValueError) as error:
            raise UserError(f"{key} {spec!r}: {error}") from error


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
    examples = _examples(federation)
    with blaming(partitioner):
        try:
            shares = partitioner.split_examples(examples, num_clients, rng)
            shares = checked_shares(shares, len(examples), num_clients)
        except PartitionError as error:
            raise UserError(f"partition {partition!r}: {error}") from error
    return [federation.train.select(torch.from_numpy(share)) for share in shares]


def _examples(federation: Federation) -> Examples:
    """Return what partitioners may read of the training images."""
    train, coarse = federation.train, federation.coarse_of
    labels = train.labels.numpy()
    superclasses = None if coarse is None else np.array(coarse, dtype=np.int64)[labels]
    clients = None
    if train.clients is not None:
        clients = np.unique(np.array(train.clients, dtype=np.str_), return_inverse=True)[1]
    return Examples(labels, train.domains.numpy(), superclasses, clients)


def divide(
    images: LabelledImages,
    test_fraction: float,
    seed: int,
    client: str,
    calibration_fraction: float = 0.0,
    shots: int | None = None,
) -> ClientData:
    """Hold out random parts of one client's images; at least one image stays to train on.

    What is held out for measuring does not depend on how much is held out for calibrating.

    Args:
        images: the client's.
        test_fraction: held out for measuring.
        seed: of the run.
        client: its key.
        calibration_fraction: held out to fit calibrators.
        shots: most images of a class to train on; the rest is not used. None: all.
    """
    rng = np.random.default_rng(derive_seed(seed, "local-test", client))
    order = torch.from_numpy(rng.permutation(len(images)))
    held_out = min(round(len(images) * test_fraction), max(0, len(images) - 1))
    kept = min(round(len(images) * calibration_fraction), max(0, len(images) - 1 - held_out))
    train = order[held_out + kept :].sort().values
    if shots is not None:
        rng = np.random.default_rng(derive_seed(seed, "shots", client))
        train = train[few_of_each(images.labels[train], shots, rng)]
    return ClientData(
        train=images.select(train),
        test=images.select(order[:held_out].sort().values),
        calibration=images.select(order[held_out : held_out + kept].sort().values),
    )


def check_division(
    federation: Federation, clients: Sequence[ClientData], on_leak: OnLeak
) -> tuple[str, ...]:
    """Look for equal images that the clients' divisions put on different sides.

    Returns:
        Sentences for the run's record.

    Raises:
        UserError: see ``leaks_among_clients``.
    """
    if not federation.repeated:  # all training images differ
        return ()
    train, test = [client.train for client in clients], [client.test for client in clients]
    return leaks_among_clients(train, test, [client.calibration for client in clients], on_leak)
