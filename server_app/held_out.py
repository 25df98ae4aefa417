"""The held-out images that lie with the server, and their logits in one pass."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby

import torch
from torch import Tensor

from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.prediction import predict
from fl2ora.clip_tuning.prefix.store import shared_store
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.machine import at_once
from fl2ora.experiment.seeds import derive_seed
from fl2ora.federated_data.images import JoinedRows, LabelledImages
from fl2ora.federated_data.protocols.base import Federation
from fl2ora.federated_data.shares import ClientData, divide, share_out
from fl2ora.messages.hello import NodeInfo
from fl2ora.reporting.sources import part_source
from fl2ora.server_app.part_models import Classes, PartModels, classes_of


class HeldOut:
    """Central and clients' held-out images.

    All clients share the global adapter, so slicing one pass over the union of their images gives
    exactly the metrics they would compute themselves. So do central parts with the same classes.

    Args:
        config: of the run.
        federation: its data.
        infos: of the clients whose held-out images are measured here, by key; each must hold a
            share of ``federation``.

    Raises:
        UserError: a client says that its share has other sizes than here.

    Attributes:
        central: the central parts by their source.
        test: each client's test images.
        calibration: each client's calibration images.
    """

    def __init__(
        self, config: RunConfig, federation: Federation, infos: Mapping[str, NodeInfo]
    ) -> None:
        self._batch = config.eval_batch_size
        self._at_once = at_once(config.workers, config.threads)
        gib = config.cache_gib if config.cache_features else 0.0
        self._store = shared_store(gib, config.cache_dir)
        self._seed = config.seed
        self._key = object()  # of these images in the store
        self.central = {part_source(part.name): part for part in federation.parts}
        self._classes: Classes = federation.class_names, federation.templates
        divided = shares_of(config, federation, infos)
        self.test = {client: data.test for client, data in divided.items()}
        self.calibration = {client: data.calibration for client, data in divided.items()}

    def sample(self, share: float) -> HeldOut:
        """Return these with the same share of the test images of each part and client.

        They are the same in every run with the seed; at least one of each that has any.
        """
        sample = copy.copy(self)
        sample._key = object()
        sample.central = {
            source: replace(part, images=self._some(part.images, share, source))
            for source, part in self.central.items()
        }
        sample.test = {c: self._some(data, share, f"client {c}") for c, data in self.test.items()}
        return sample

    def _some(self, images: LabelledImages, share: float, name: str) -> LabelledImages:
        rng = torch.Generator().manual_seed(derive_seed(self._seed, "eval-share", name))
        chosen = torch.randperm(len(images), generator=rng)[: math.ceil(share * len(images))]
        return images.select(chosen.sort().values)

    def test_logits(self, models: PartModels) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the logits of each central part by its source, and of each client's images."""
        found: dict[str, Tensor] = {}
        clients: dict[str, Tensor] = {}
        names = [self._classes, *map(classes_of, self.central.values())]
        for classes in dict.fromkeys(names):
            own = classes == self._classes
            central = {s: p.images for s, p in self.central.items() if classes_of(p) == classes}
            parts = [*central.values(), *(self.test.values() if own else ())]
            rows = self._logits(models.of(classes), parts, f"test {classes}")
            found |= zip(central, rows, strict=False)
            clients |= zip(self.test if own else (), rows[len(central) :], strict=True)
        return {source: found[source] for source in self.central}, clients

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
        # Images of other sizes cannot lie in one tensor; there are such where data sets differ.
        found: list[Tensor] = []
        for shape, group in groupby(parts, key=lambda part: part.images.shape[1:]):
            same = list(group)
            images = JoinedRows([part.images for part in same])
            key = self._key, name, len(found), shape
            at_once = self._at_once if classifier.clip.device.type == "cpu" else 1
            features = self._store.features(classifier, images, key, self._batch, at_once=at_once)
            logits = predict(classifier, images, self._batch, features, at_once)
            found += torch.split(logits, [len(part) for part in same])
        return found


def shares_of(
    config: RunConfig, federation: Federation, infos: Mapping[str, NodeInfo]
) -> dict[str, ClientData]:
    """Return what the clients with a share of the run's data hold.

    Raises:
        UserError: one says that its share has other sizes than here.
    """
    sharing = {client: info for client, info in infos.items() if info.source == "partition"}
    if not sharing:
        return {}
    count = next(iter(sharing.values())).num_partitions
    shares = share_out(federation, config.partition, count, config.seed)
    found = {}
    for client, info in sharing.items():
        data = divide(
            shares[info.partition],
            config.local_test_fraction,
            config.seed,
            client,
            config.calibration_fraction,
            federation.shots,
        )
        here = len(data.train), len(data.test), len(data.calibration)
        there = info.num_train, info.num_test, info.num_calibration
        if here != there:
            raise UserError(
                f"client {client}: its share has {there[0]} training, {there[1]} test and "
                f"{there[2]} calibration images, the server's same share {here[0]}, {here[1]} "
                f"and {here[2]}: their data differ"
            )
        found[client] = data
    return found
