"""The held-out images that lie with the server, and their logits in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.prediction import predict
from fl2ora.clip_tuning.prefix.store import shared_store
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.images import JoinedRows, LabelledImages
from fl2ora.federated_data.protocols.base import Federation
from fl2ora.federated_data.shares import divide, share_out
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

    Raises:
        UserError: a client says that its share has other sizes than here.

    Attributes:
        central: the central test set.
        test: each client's test images.
        calibration: each client's calibration images.
    """

    def __init__(
        self, config: RunConfig, federation: Federation, infos: Mapping[str, NodeInfo]
    ) -> None:
        self._batch = config.eval_batch_size
        gib = config.cache_gib if config.cache_features else 0.0
        self._store = shared_store(gib, config.cache_dir)
        self._key = object()  # of these images in the store
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
            here = len(data.train), len(data.test), len(data.calibration)
            there = info.num_train, info.num_test, info.num_calibration
            if here != there:
                raise UserError(
                    f"client {client}: its share has {there[0]} training, {there[1]} test and "
                    f"{there[2]} calibration images, the server's same share {here[0]}, {here[1]} "
                    f"and {here[2]}: their data differ"
                )
            self.test[client], self.calibration[client] = data.test, data.calibration

    def test_logits(self, classifier: ClipClassifier) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the logits of the central test set, and of each client's test images."""
        parts = [self.central, *self.test.values()]
        central, *clients = self._logits(classifier, parts, "test")
        return central, dict(zip(self.test, clients, strict=True))

    def calibration_logits(self, classifier: ClipClassifier) -> dict[str, Tensor]:
        """Return the logits of each client's calibration images."""
        rows = self._logits(classifier, list(self.calibration.values()), "calibration")
        return dict(zip(self.calibration, rows, strict=True))

    def _logits(
        self, classifier: ClipClassifier, parts: list[LabelledImages], name: str
    ) -> Sequence[Tensor]:
        """Return the logits of each part from one pass over the images of all.

        Args:
            classifier: what scores.
            parts: of what is held out here.
            name: of these parts together, always the same ones.
        """
        if not parts:
            return []
        images = JoinedRows([part.images for part in parts])
        features = self._store.features(classifier, images, (self._key, name), self._batch)
        logits = predict(classifier, images, self._batch, features)
        return torch.split(logits, [len(part) for part in parts])
