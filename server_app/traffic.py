"""How many bytes of tensors travel in a round, per client and in each direction."""

from __future__ import annotations

import math
import statistics

import numpy as np
from flwr.app import Message


class Traffic:
    """Counts the tensors of one round's messages: values alone, without names and headers."""

    def __init__(self) -> None:
        self._down: list[int] = []
        self._up: list[int] = []

    def sent(self, message: Message) -> None:
        """Count a message to a client."""
        self._down.append(_tensor_bytes(message))

    def received(self, message: Message) -> None:
        """Count a usable reply."""
        self._up.append(_tensor_bytes(message))

    def result(self) -> dict[str, float]:
        """Return ``bytes_down`` and ``bytes_up``, means over the round's clients."""
        return {
            name: statistics.fmean(sizes)
            for name, sizes in (("bytes_down", self._down), ("bytes_up", self._up))
            if sizes
        }


def _tensor_bytes(message: Message) -> int:
    return sum(
        math.prod(array.shape) * np.dtype(array.dtype).itemsize
        for record in message.content.array_records.values()
        for array in record.values()
    )
