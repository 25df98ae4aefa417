"""What the server measures: the central test set, and the clients' held-out images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.prediction import predict
from fl2ora.clip_tuning.prefix.store import shared_store
from fl2ora.experiment.config import RunConfig
from fl2ora.federated_data.clients import divide, share_out
from fl2ora.federated_data.images import LabelledImages
from fl2ora.federated_data.protocols.base import Federation
from fl2ora.reporting.logits import SavedLogits, Scored
from fl2ora.server_app.handshake import Peer


class HeldOut:
    """Held-out data that lies with the server, measured in one pass.

    Args:
        config: of the run.
        federation: its data.
        peers: clients whose held-out images are measured here too; each must hold a share of
            ``federation``. All share the global adapter, so slicing one pass over the union gives
            exactly the figures they would compute themselves.
    """

    def __init__(self, config: RunConfig, federation: Federation, peers: Sequence[Peer]) -> None:
        """Collect the images once."""
        self.spec = StatsSpec(num_bins=config.num_bins)
        self._batch = config.eval_batch_size
        self._store = shared_store(
            config.cache_gib if config.cache_features else 0.0, config.cache_dir
        )
        self._key = object()  # of these images in the store
        self._server_test = federation.test
        self._test: dict[str, LabelledImages] = {}
        self._calibration: dict[str, LabelledImages] = {}
        if peers:
            count = peers[0].hello.num_partitions
            shares = share_out(federation, config.partition, count, config.seed)
            for peer in peers:
                data = divide(
                    shares[peer.hello.partition],
                    config.local_test_fraction,
                    config.seed,
                    peer.client,
                    config.calibration_fraction,
                )
                self._test[peer.client] = data.test
                self._calibration[peer.client] = data.calibration

    def measure(
        self, classifier: ClipClassifier
    ) -> tuple[CalibrationStats, dict[str, CalibrationStats]]:
        """Return the sums of the central test set, and of each client's test images by its key."""
        parts = [self._server_test, *self._test.values()]
        predicted = self._predict(classifier, parts, "measured")
        stats = [
            CalibrationStats.from_logits(logits, part.labels, self.spec)
            for logits, part in zip(predicted, parts, strict=True)
        ]
        return stats[0], dict(zip(self._test, stats[1:], strict=True))

    def score(self, classifier: ClipClassifier, zero_shot: ClipClassifier) -> SavedLogits:
        """Return the logits of everything held out here, by the final and the zero-shot model."""
        measured = [self._server_test, *self._test.values()]
        others = [*self._calibration.values()]
        final, start = (
            [
                *self._predict(model, measured, "measured"),
                *self._predict(model, others, "calibration"),
            ]
            for model in (classifier, zero_shot)
        )
        scored = [
            Scored(logits, part.labels, untuned)
            for logits, part, untuned in zip(final, [*measured, *others], start, strict=True)
        ]
        middle = len(measured)
        with torch.inference_mode():
            features = [
                m.pooled_classes(m.encode_classes()).float().cpu().clone()
                for m in (classifier, zero_shot)
            ]
        return SavedLogits(
            scored[0],
            dict(zip(self._test, scored[1:middle], strict=True)),
            dict(zip(self._calibration, scored[middle:], strict=True)),
            *features,
        )

    def _predict(
        self, classifier: ClipClassifier, parts: Sequence[LabelledImages], name: str
    ) -> Sequence[Tensor]:
        """Return the logits of each part from one pass over the images of all.

        Args:
            classifier: what scores.
            parts: of what is held out here.
            name: of these parts together, always the same ones.
        """
        if not parts:
            return []
        images = torch.cat([part.images for part in parts])
        features = self._store.features(classifier, images, (self._key, name), self._batch)
        logits = predict(classifier, images, self._batch, features)
        return torch.split(logits, [len(part) for part in parts])
