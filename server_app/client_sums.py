"""The sums of many clients, of which only the few that are looked at are in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.federated_data.images import LabelledImages


class ClientSums(Mapping[str, CalibrationStats]):
    """Each client's sums over its held-out images, added up anew whenever they are asked for.

    The sums of a client take some 24 KiB, its logits of a few images some 100 bytes.

    Args:
        logits: ``(N, K)`` of each client's images.
        data: these images.
        spec: sizes of the sums.
    """

    def __init__(
        self, logits: Mapping[str, Tensor], data: Mapping[str, LabelledImages], spec: StatsSpec
    ) -> None:
        self._logits, self._data, self._spec = logits, data, spec

    def __getitem__(self, client: str) -> CalibrationStats:
        """Return the sums of one client."""
        rows, labels = self._logits[client], self._data[client].labels
        return CalibrationStats.from_logits(rows, labels, self._spec)

    def __iter__(self) -> Iterator[str]:
        """Return the clients, in the order of their logits."""
        return iter(self._logits)

    def __len__(self) -> int:
        """Return how many clients there are."""
        return len(self._logits)
