"""What the server measures: the central test set, and the clients' held-out images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from fl2ora.calibration.metrics.table import chosen_metrics, spec_for
from fl2ora.calibration.stats import CalibrationStats
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.feature_cache import digest, shared_cache
from fl2ora.clip_tuning.frozen import table, table_key
from fl2ora.clip_tuning.prediction import predict
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
            exactly the metrics they would compute themselves.
    """

    def __init__(self, config: RunConfig, federation: Federation, peers: Sequence[Peer]) -> None:
        """Collect the images once."""
        metrics = chosen_metrics(config.metrics)
        self.spec = spec_for(metrics, config.num_bins, len(federation.class_names))
        self._batch = config.eval_batch_size
        cache = shared_cache(config.cache_gib, config.cache_dir)
        self._cache = cache if config.cache_features else None
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
        parts = self._measured
        images = _together(parts)
        predicted = self._predict(classifier, images, parts, self._begun(classifier, images))
        stats = [
            CalibrationStats.from_logits(logits, part.labels, self.spec)
            for logits, part in zip(predicted, parts, strict=True)
        ]
        return stats[0], dict(zip(self._test, stats[1:], strict=True))

    def score(self, classifier: ClipClassifier, zero_shot: ClipClassifier) -> SavedLogits:
        """Return the logits of everything held out here, by the final and the zero-shot model."""
        parts = [self._server_test, *self._test.values(), *self._calibration.values()]
        images = _together(parts)
        final, start = (self._predict(m, images, parts) for m in (classifier, zero_shot))
        scored = [
            Scored(logits, part.labels, untuned)
            for logits, part, untuned in zip(final, parts, start, strict=True)
        ]
        middle = 1 + len(self._test)
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
        self,
        classifier: ClipClassifier,
        images: Tensor,
        parts: Sequence[LabelledImages],
        begun: Tensor | None = None,
    ) -> Sequence[Tensor]:
        """Return the logits of each part from one pass over the images of all."""
        logits = predict(classifier, images, self._batch, begun)
        return torch.split(logits, [len(part) for part in parts])

    @property
    def _measured(self) -> list[LabelledImages]:
        return [self._server_test, *self._test.values()]

    @cached_property
    def _digest(self) -> str:
        return digest([part.images for part in self._measured])

    def _begun(self, classifier: ClipClassifier, images: Tensor) -> Tensor | None:
        """Return the frozen start of all measured images, computed once, where a method has one."""
        if self._cache is None or classifier.frozen_images is None:
            return None
        key = table_key(classifier, self._digest)
        return table(classifier, images, self._cache, key, self._batch)


def _together(parts: Sequence[LabelledImages]) -> Tensor:
    return torch.cat([part.images for part in parts])
