"""What a node is in a run: its key, its share of the data, its device and its classifier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from fl2ora.client_app.loss_context import ZeroShotReference
from fl2ora.clip_tuning.build import build_classifier, resolve_device
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.feature_cache import digest, shared_cache
from fl2ora.clip_tuning.frozen import PLAIN, Views, begin_all, table, table_key
from fl2ora.clip_tuning.preprocessing import Augmentation
from fl2ora.experiment.config import RunConfig, Value
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.seeds import derive_seed
from fl2ora.federated_data.clients import ClientData, divide, load_federation, share_out
from fl2ora.federated_data.images import LabelledImages
from fl2ora.federated_data.protocols.base import Federation


@dataclass(frozen=True)
class Node:
    """One client of a run.

    Attributes:
        config: of the run, with the node's own ``dataset``, ``device`` and ``cache-dir`` where it
            has them.
        partition: index of its share, None if the node brings its own data.
        num_partitions: how many shares there are.
        key: the same in every round and run.
    """

    config: RunConfig
    partition: int | None
    num_partitions: int
    key: str

    @classmethod
    def from_configs(
        cls, run: Mapping[str, Value], node: Mapping[str, Value], node_id: int
    ) -> Node:
        """Read the run config and the node config.

        A node has its own data if its config names a ``dataset``; else it takes share
        ``partition-id`` of ``num-partitions`` of the run's dataset.

        Raises:
            ConfigError: an error in the run config or in the node's overrides.
            UserError: the node has neither data of its own nor a share.
        """
        own = "dataset" in node
        overrides = {key: node[key] for key in ("dataset", "device", "cache-dir") if key in node}
        # Where a node may write what comes of its own images is for the node to say.
        quiet = {"cache-dir": ""} if own else {}
        config = RunConfig.from_flat({**run, **quiet, **overrides})
        if not own and not {"partition-id", "num-partitions"} <= node.keys():
            raise UserError(
                "node config: expected either dataset=... (own data) or partition-id and "
                f"num-partitions (a share of the run's dataset), found {sorted(node) or 'nothing'}"
            )
        partition = None if own else int(node["partition-id"])
        site = str(node.get("site", node_id if partition is None else partition))
        return cls(config, partition, 0 if own else int(node["num-partitions"]), site)

    @cached_property
    def federation(self) -> Federation:
        """The dataset this node's images come from."""
        return load_federation(self.config.dataset, self.config.protocol)

    @cached_property
    def data(self) -> ClientData:
        """This node's training and test images."""
        own = self.partition is None
        images = self.federation.train if own else self._shares()[self.partition or 0]
        config = self.config
        return divide(
            images,
            config.local_test_fraction,
            config.seed,
            self.key,
            config.calibration_fraction,
        )

    def _shares(self) -> list[LabelledImages]:
        config = self.config
        if self.partition is None or not 0 <= self.partition < self.num_partitions:
            raise UserError(
                f"node config: expected partition-id in 0..{self.num_partitions - 1}, "
                f"found {self.partition}"
            )
        return _shares(
            config.dataset, config.protocol, config.partition, self.num_partitions, config.seed
        )

    @property
    def device(self) -> torch.device:
        """Where this node computes."""
        return resolve_device(self.config.device)

    def classifier(self) -> ClipClassifier:
        """Return the process's classifier; what is tuned in it must be restored before use."""
        return self._classifier(self.config.method, self.config.gradient_checkpointing)

    def zero_shot_classifier(self) -> ClipClassifier:
        """Return the untuned classifier."""
        return self._classifier("zero_shot")

    def begun(self, part: str) -> Tensor | None:
        """Return the frozen start of this node's images, computed once; see ``clip_tuning.frozen``.

        Args:
            part: of ``data``: ``train`` (as training sees it), ``test`` or ``calibration``.

        Returns:
            None where there is nothing to keep: caching is off, the method tunes from the first
            block on, training draws new views in every step, there is no image, or no room.
        """
        return self._begun(self.classifier(), part)

    def reference(self) -> ZeroShotReference:
        """Return the frozen model's view of this node's training images."""
        classifier = self.zero_shot_classifier()
        return ZeroShotReference(classifier, self._begun(classifier, "train"))

    def check_views(self) -> None:
        """Refuse fixed views that would not fit into memory.

        Raises:
            UserError: how much they need, and how much there is.
        """
        config, images = self.config, self.data.train.images
        classifier = self.classifier() if config.fixed_views and len(images) else None
        if classifier is None or classifier.frozen_images is None:
            return
        needed = begin_all(classifier, images[:1]).nbytes * len(images) * config.fixed_views
        if needed > config.cache_gib * 2**30:
            raise UserError(
                f"fixed-views: {config.fixed_views} views of {len(images)} images need "
                f"{needed / 2**30:.3g} GiB, found cache-gib={config.cache_gib:g}"
            )

    def _begun(self, classifier: ClipClassifier, part: str) -> Tensor | None:
        config, images = self.config, getattr(self.data, part).images
        drawn_anew = part == "train" and config.augmentation != "none" and not config.fixed_views
        if classifier.frozen_images is None or not len(images):
            return None
        if not config.cache_features or drawn_anew:
            return None
        cache, views = shared_cache(config.cache_gib, config.cache_dir), self.views(part)
        # A copy without the images: what is remembered keeps its arguments alive.
        key = table_key(classifier, _images_digest(replace(self), part), views)
        return table(classifier, images, cache, key, config.eval_batch_size, views)

    def views(self, part: str) -> Views:
        """Return how the images of a part of ``data`` are seen."""
        config = self.config
        if part != "train" or not config.fixed_views:
            return PLAIN
        kind: Augmentation = config.augmentation
        return Views(kind, config.fixed_views, derive_seed(config.seed, "views", self.key))

    def _classifier(self, method: str, recompute: bool = False) -> ClipClassifier:
        model, seed = self.config.model, self.config.seed
        data = self.federation
        return _classifier(
            model, method, data.class_names, data.templates, seed, recompute, self.device
        )


@lru_cache(maxsize=1)
def _shares(
    dataset: str, protocol: str, partition: str, num_clients: int, seed: int
) -> list[LabelledImages]:
    return share_out(load_federation(dataset, protocol), partition, num_clients, seed)


@lru_cache(maxsize=2)
def _classifier(
    model: str,
    method: str,
    class_names: tuple[str, ...],
    templates: tuple[str, ...],
    seed: int,
    recompute: bool,
    device: torch.device,
) -> ClipClassifier:
    """Keep the last two per process: loading CLIP for each of many clients would be the round."""
    classifier = build_classifier(
        model, method, class_names, templates, seed, gradient_checkpointing=recompute
    )
    return classifier.to(device)


@lru_cache(maxsize=4096)
def _images_digest(node: Node, part: str) -> str:
    return digest([getattr(replace(node).data, part).images])
