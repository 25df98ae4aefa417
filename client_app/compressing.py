"""What a client sends of its change, and what it holds back for its next one."""

from __future__ import annotations

from dataclasses import replace

import torch

from fl2ora.clip_tuning.adapter import Adapter, changes, check_like
from fl2ora.experiment.plugins import load
from fl2ora.messages.compressed import pack
from fl2ora.strategies.compression.base import Compression
from fl2ora.strategies.updates import ClientUpdate


def compressed(
    update: ClientUpdate, received: Adapter, spec: str, held_back: Adapter, seed: int
) -> tuple[ClientUpdate, Adapter]:
    """Return an update with its change in parts, and what of the change is not among them.

    Tensors that training left as they were send nothing, and keep what was held back of them.

    Args:
        update: after training.
        received: the adapter it started from.
        spec: of the ``Compression``.
        held_back: what this function returned last; empty at first.
        seed: of rounding.

    Raises:
        AdapterError: what was held back is of other tensors.
    """
    compression = load(spec, Compression)
    rng = torch.Generator().manual_seed(seed)
    wanted = {}
    for name in changes(update.adapter, received):
        change = update.adapter[name].double() - received[name].double()
        before = held_back.get(name)
        if before is not None:
            check_like({name: before}, {name: change}, "held back")
            change = change + before.double()
        wanted[name] = change.float()
    packed, meant = pack(wanted, compression, rng)
    update = replace(update, packed=packed)
    if not compression.feedback:
        return update, {}
    return update, {**held_back, **{name: wanted[name] - meant[name] for name in wanted}}
