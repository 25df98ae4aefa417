"""The held-out images that lie with the server, and their logits in one pass."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor

from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.feature_cache import digest, shared_cache
from fl2ora.clip_tuning.frozen import table, table_key
from fl2ora.clip_tuning.prediction import predict
from fl2ora.experiment.config import RunConfig
from fl2ora.federated_data.clients import divide, share_out
from fl2ora.federated_data.images import LabelledImages
from fl2ora.federated_data.protocols.base import Federation
from fl2ora.messages.hello import NodeInfo


class HeldOut:
    """Central and clients' held-out images.

    All clients share the global adapter, so slicing one pass over the union of their images gives
    exactly the metrics they would compute themselves.

    Args:
        config: of the run.
        federation: its data.
        infos: of the clients whose held-out images are measured here, by key; each must hold a
            share of ``federation``.

    Attributes:
        central: the central test set.
        test: each client's test images.
        calibration: each client's calibration images.
    """

    def __init__(
        self, config: RunConfig, federation: Federation, infos: Mapping[str, NodeInfo]
    ) -> None:
        self._batch = config.eval_batch_size
        cache = shared_cache(config.cache_gib, config.cache_dir)
        self._cache = cache if config.cache_features else None
        self.central = federation.test
        self.test: dict[str, LabelledImages] = {}
        self.calibration: dict[str, LabelledImages] = {}
        if not infos:
            return
        count = next(iter(infos.values())).num_partitions
        shares = share_out(federation, config.partition, count, config.seed)
        for client, info in infos.items():
            data = divide(
                shares[info.partition],
                config.local_test_fraction,
                config.seed,
                client,
                config.calibration_fraction,
            )
            self.test[client], self.calibration[client] = data.test, data.calibration

    def test_logits(self, classifier: ClipClassifier) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the logits of the central test set, and of each client's test images."""
        parts = [self.central, *self.test.values()]
        images = _together(parts)
        logits = predict(classifier, images, self._batch, self._prefix(classifier, images))
        central, *clients = torch.split(logits, [len(part) for part in parts])
        return central, dict(zip(self.test, clients, strict=True))

    def calibration_logits(self, classifier: ClipClassifier) -> dict[str, Tensor]:
        """Return the logits of each client's calibration images."""
        parts = list(self.calibration.values())
        if not parts:
            return {}
        logits = predict(classifier, _together(parts), self._batch)
        rows = torch.split(logits, [len(part) for part in parts])
        return dict(zip(self.calibration, rows, strict=True))

    @cached_property
    def _digest(self) -> str:
        return digest([part.images for part in [self.central, *self.test.values()]])

    def _prefix(self, classifier: ClipClassifier, images: Tensor) -> Tensor | None:
        """Return the frozen start of all measured images, computed once, where a method has one."""
        if self._cache is None or classifier.frozen_images is None:
            return None
        key = table_key(classifier, self._digest)
        return table(classifier, images, self._cache, key, self._batch)


def _together(parts: list[LabelledImages]) -> Tensor:
    return torch.cat([part.images for part in parts])
