"""Images that are held out here and trained on there: found by content, stopped, dropped or said.

Two images are the same if their bytes are, whatever their names and labels. Copies that were scaled
or compressed again are not found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from fl2ora.experiment.errors import UserError, shown
from fl2ora.federated_data.images import DIGEST, Digests, LabelledImages
from fl2ora.federated_data.protocols.base import Federation

OnLeak = Literal["stop", "drop", "report"]
ADVICE = "; on-leak='drop' trains without them, 'report' only says so in the record"


def without_leaks(federation: Federation, on_leak: OnLeak) -> Federation:
    """Return the federation with a sentence for each kind of copy there is.

    ``drop`` leaves out training images that are held out centrally, and all but the first of equal
    training images, so that no division among clients can part them.

    Raises:
        UserError: ``stop``, and a training image is held out centrally.
    """
    if on_leak not in get_args(OnLeak):
        raise UserError(f"on-leak: expected stop, drop or report, found {shown(on_leak)}")
    train = digests(federation.train)
    parts = [digests(part.images) for part in federation.parts]
    test = np.concatenate(parts) if parts else train[:0]
    leaked, notes = np.isin(train, test), []
    if leaked.any():
        copies, count = int(np.isin(test, train).sum()), len(test)
        if on_leak == "stop":
            raise UserError(
                f"test: {copies} of the {count} held-out images are training images, byte by byte: "
                f"what is measured on them says nothing of new images{ADVICE}"
            )
        notes.append(f"{copies} of the {count} held-out images are training images, too")
    repeated = _is_repeated(train)
    keep = ~(leaked | repeated) if on_leak == "drop" else np.ones(len(train), dtype=bool)
    if not keep.all():
        notes.append(f"{int((~keep).sum())} training images are left out as copies of others")
    elif repeated.any():
        notes.append(f"{int(repeated.sum())} training images are copies of others")
    if len(parts) > 1:
        distinct = [np.unique(part) for part in parts]
        shared = len(np.concatenate(distinct)) - len(np.unique(np.concatenate(distinct)))
        notes += [f"{shared} images stand in more than one held-out part"] if shared else []
    return replace(
        federation,
        train=federation.train.select(torch.from_numpy(np.flatnonzero(keep))),
        notes=(*federation.notes, *notes),
        repeated=bool((repeated & keep).any()),
    )


def leaks_among_clients(
    train: Sequence[LabelledImages],
    test: Sequence[LabelledImages],
    calibration: Sequence[LabelledImages],
    on_leak: OnLeak,
) -> tuple[str, ...]:
    """Return a sentence for each kind of image that lies on two sides of clients' divisions.

    Args:
        train: what each client trains on.
        test: what each measures on.
        calibration: what calibrators are fitted to.
        on_leak: see ``without_leaks``; there is nothing to drop after it.

    Raises:
        UserError: ``stop``, and there are such images.
    """
    trained, tested, fitted = (_joined(map(digests, of)) for of in (train, test, calibration))
    found = {
        "held-out images of clients are training images of a client": np.isin(tested, trained),
        "calibration images of clients are training images of a client": np.isin(fitted, trained),
        "calibration images of clients are held-out images of a client": np.isin(fitted, tested),
    }
    notes = tuple(
        f"{int(copies.sum())} of the {len(copies)} {what}, byte by byte"
        for what, copies in found.items()
        if copies.any()
    )
    if notes and on_leak == "stop":
        raise UserError(f"clients: {'; '.join(notes)}{ADVICE}")
    return notes


def digests(images: LabelledImages) -> Digests:
    """Return a digest of each image's pixels, ``(N,)``."""
    return images.images.digests()


def _joined(parts: Iterable[Digests]) -> Digests:
    return np.concatenate([np.array([], dtype=DIGEST), *parts])


def _is_repeated(found: Digests) -> NDArray[np.bool_]:
    """Return which entries equal an earlier one."""
    repeated = np.ones(len(found), dtype=bool)
    repeated[np.unique(found, return_index=True)[1]] = False
    return repeated
