"""Who holds how many images of what: counts of a federation before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from fl2ora.federated_data.images import LabelledImages
from fl2ora.federated_data.protocols.base import Federation
from fl2ora.federated_data.shares import ClientData, divide, share_out

PARTS = ("train", "test", "calibration")


def divided(
    federation: Federation,
    partition: str,
    num_clients: int,
    seed: int,
    fractions: tuple[float, float],
) -> dict[str, ClientData]:
    """Return what each client of a run holds, by its name, as its nodes divide it themselves.

    Args:
        federation: what is divided.
        partition: spec of the partitioner.
        num_clients: how many clients there are; they are called ``0``, ``1``, ...
        seed: of the run.
        fractions: ``local-test-fraction`` and ``calibration-fraction`` of the run.

    Raises:
        UserError: the partition cannot be made, with the reason.
    """
    test, calibration = fractions
    shares = share_out(federation, partition, num_clients, seed)
    return {
        str(index): divide(share, test, seed, str(index), calibration, federation.shots)
        for index, share in enumerate(shares)
    }


def count_images(federation: Federation, clients: Mapping[str, ClientData]) -> pd.DataFrame:
    """Count images by client, part, class and domain.

    Args:
        federation: names the classes and domains.
        clients: what each holds.

    Returns:
        Columns ``client``, ``part`` (``train``, ``test`` or ``calibration``), ``label`` (int),
        ``class`` (its name), ``domain`` and ``images``; only rows with at least one image, clients
        in their order.
    """
    rows = [
        (client, part, *row)
        for client, data in clients.items()
        for part in PARTS
        for row in _counted(getattr(data, part))
    ]
    table = pd.DataFrame(rows, columns=["client", "part", "label", "domain", "images"])
    table["domain"] = [federation.domains[index] for index in table["domain"]]
    table.insert(3, "class", [federation.class_names[index] for index in table["label"]])
    return table


def _counted(images: LabelledImages) -> Iterator[tuple[int, int, int]]:
    """Yield label, domain and number of images, sorted."""
    pairs = np.stack([images.labels.numpy(), images.domains.numpy()], axis=1)
    values, counts = np.unique(pairs, axis=0, return_counts=True)
    for (label, domain), count in zip(values, counts, strict=True):
        yield int(label), int(domain), int(count)


def by_client(counts: pd.DataFrame, clients: Mapping[str, ClientData]) -> pd.DataFrame:
    """Sum up what each client holds, also of those that hold nothing.

    Returns:
        One row for each client in their order: ``client``, ``images``, ``train``, ``test``,
        ``calibration``, ``classes`` and ``domains`` (how many it has images of), ``most`` (the
        class it has the most images of) and ``share`` (that class's fraction of its images).
    """
    names = list(clients)
    sums = counts.pivot_table(
        index="client", columns="part", values="images", aggfunc="sum", fill_value=0
    ).reindex(index=names, columns=list(PARTS), fill_value=0)
    table = sums.fillna(0).astype(int)
    table.insert(0, "images", table.sum(axis=1))
    groups = counts.groupby("client")
    for column, source in (("classes", "label"), ("domains", "domain")):
        table[column] = groups[source].nunique().reindex(names, fill_value=0)
    per_class = counts.groupby(["client", "class"])["images"].sum()
    largest = per_class.groupby(level="client").idxmax()
    table["most"] = [largest[name][1] if name in largest.index else "" for name in names]
    top = per_class.groupby(level="client").max().reindex(names, fill_value=0)
    table["share"] = (top / table["images"].clip(lower=1)).round(4)
    return table.rename_axis("client").reset_index()
