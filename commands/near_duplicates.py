"""What ``fl2ora data --near`` says of images that look alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from fl2ora.federated_data.images import LabelledImages
from fl2ora.federated_data.near import (
    Hashes,
    NearCopies,
    Side,
    counts_by_side,
    near_copies,
    near_elsewhere,
    perceptual_hashes,
)
from fl2ora.federated_data.protocols.base import Federation
from fl2ora.federated_data.shares import ClientData
from fl2ora.reporting.data_plots import contact_sheet
from fl2ora.reporting.sources import part_source
from fl2ora.reporting.whole_files import write_whole

_PAIRS = 12  # of the contact sheet
_FILES = ("near.csv", "near.png", "near.svg")


def report_near(
    console: Console,
    federation: Federation,
    clients: Mapping[str, ClientData],
    bits: int,
    output: Path,
) -> None:
    """Print how many held-out images look like training images, and write which.

    Written are near.csv, and near.png and .svg with the pairs that look most alike.

    Args:
        console: to print to.
        federation: what was divided.
        clients: what each holds.
        bits: see ``near_copies``.
        output: an existing folder.
    """
    trained, held, names = _sides(federation, clients)
    for name in _FILES:  # of an earlier look
        (output / name).unlink(missing_ok=True)
    console.print(f"Near-duplicates, at most {bits} of 64 bits apart:")
    copies = near_copies(trained, held, bits)
    for line in _lines(federation, clients, counts_by_side(copies, held)):
        console.print(f"  {line}", markup=False, soft_wrap=True)
    alike = near_elsewhere(trained, bits)
    console.print(f"  {alike:,} training images look like one of another client", soft_wrap=True)
    if len(copies.distance):
        table = _table(copies, trained, held, names)
        write_whole(output / _FILES[0], table.to_csv(index=False))
        _draw(copies, table, trained, held, output)


def _sides(
    federation: Federation, clients: Mapping[str, ClientData]
) -> tuple[list[Side], list[Side], dict[str, tuple[str, ...]]]:
    """Return what is trained on, what is held out, and the class names of each side."""
    whole = perceptual_hashes(federation.train)
    rows = federation.train.images.numbers.numpy()
    order = np.argsort(rows)

    def of(images: LabelledImages) -> Hashes:
        found: Hashes = whole[order[np.searchsorted(rows[order], images.images.numbers.numpy())]]
        return found

    trained = [Side(f"client {c}", data.train, of(data.train)) for c, data in clients.items()]
    held = [
        Side(part_source(part.name), part.images, perceptual_hashes(part.images))
        for part in federation.parts
    ]
    names = {part_source(part.name): part.class_names for part in federation.parts}
    for client, data in clients.items():
        held += [
            Side(f"client {client} test", data.test, of(data.test)),
            Side(f"client {client} calibration", data.calibration, of(data.calibration)),
        ]
    own = {side.name: federation.class_names for side in (*trained, *held)}
    return trained, held, own | names


def _lines(
    federation: Federation, clients: Mapping[str, ClientData], counts: Mapping[str, int]
) -> Iterator[str]:
    for part in federation.parts:
        source, total = part_source(part.name), len(part.images)
        yield f"{counts[source]:,} of {total:,} images of {source} look like training images"
    for kind in ("test", "calibration"):
        found = sum(counts[f"client {client} {kind}"] for client in clients)
        total = sum(len(getattr(data, kind)) for data in clients.values())
        yield f"{found:,} of the clients' {total:,} {kind} images look like training images"


def _table(
    copies: NearCopies, trained: list[Side], held: list[Side], names: Mapping[str, tuple[str, ...]]
) -> pd.DataFrame:
    """Return a row for each held-out image that looks like a training image, nearest first."""
    columns: dict[str, list[object]] = {}
    for what, sides, places in (("held", held, copies.held), ("trained", trained, copies.trained)):
        rows = [(sides[side], number) for side, number in places.tolist()]
        columns[what] = [side.name for side, _ in rows]
        columns[f"{what}_number"] = [number for _, number in rows]
        labels = ((side, int(side.images.labels[number])) for side, number in rows)
        columns[f"{what}_class"] = [names[side.name][label] for side, label in labels]
    return pd.DataFrame({**columns, "bits": copies.distance})


def _draw(
    copies: NearCopies, table: pd.DataFrame, trained: list[Side], held: list[Side], output: Path
) -> None:
    images, captions = [], []
    for index, row in enumerate(table.head(_PAIRS).to_dict("records")):
        for what, sides, places in (
            ("held", held, copies.held),
            ("trained", trained, copies.trained),
        ):
            side, number = places[index].tolist()
            images.append(sides[side].images.images[number].numpy())
            apart = f", {row['bits']} bits apart" if what == "trained" else ""
            captions.append(f"{row[what]}: {row[f'{what}_class']}{apart}")
    contact_sheet(images, captions, output / "near")
