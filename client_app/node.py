"""What a node is in a run: its key, its share of the data, its device and its classifier."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from fl2ora.client_app.loss_context import ZeroShotReference
from fl2ora.client_app.node_config import OVERRIDES, check_node_config, node_name
from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.clip_tuning.build import resolve_device, tuned_classifier, zero_shot_classifier
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.clip import image_fit
from fl2ora.clip_tuning.prefix.features import PLAIN, Views, bytes_needed
from fl2ora.clip_tuning.prefix.store import shared_store
from fl2ora.experiment.config import RunConfig, Value
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.image_fit import Fit
from fl2ora.experiment.seeds import derive_seed
from fl2ora.federated_data.images import LabelledImages
from fl2ora.federated_data.label_space import in_label_space, relabelled
from fl2ora.federated_data.leaks import OnLeak
from fl2ora.federated_data.protocols.base import Federation, HeldOutPart
from fl2ora.federated_data.salted import unpacked, without
from fl2ora.federated_data.shares import (
    ClientData,
    check_division,
    divide,
    load_federation,
    share_out,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Node:
    """One client of a run.

    Attributes:
        config: of the run, with the node's own ``dataset``, ``device`` and ``cache-dir`` where it
            has them.
        partition: index of its share, None if the node brings its own data.
        num_partitions: how many shares there are.
        key: the same in every round and run.
        rank: of LoRA on this node, where its config sets one, else 0.
        classes: the run's, in their order; empty: those of its own data, in theirs.
        left_out: a salt, and the salted digests of images that others hold out, which it neither
            trains nor calibrates on; see ``messages.digests``.
        share_digests: it tells the server salted digests of its images.
    """

    config: RunConfig
    partition: int | None
    num_partitions: int
    key: str
    rank: int = 0
    classes: tuple[str, ...] = ()
    left_out: tuple[bytes, bytes] = (b"", b"")
    share_digests: bool = True

    @classmethod
    def from_configs(
        cls, run: Mapping[str, Value], node: Mapping[str, Value], node_id: int
    ) -> Node:
        """Read the run config and the node config.

        A node has its own data if its config names a ``dataset``; else it takes share
        ``partition-id`` of ``num-partitions`` of the run's dataset.

        Raises:
            ConfigError: an error in the run config or in the node's overrides.
            UserError: another mistake in the node config; see ``check_node_config``.
        """
        check_node_config(node)
        own = "dataset" in node
        overrides = {key: node[key] for key in OVERRIDES if key in node}
        # Where a node may write what comes of its own images is for the node to say.
        quiet = {"cache-dir": ""} if own else {}
        config = _config_of(tuple(
            (key, type(value), value) for key, value in {**run, **quiet, **overrides}.items()
        ))  # fmt: skip
        partition = None if own else int(node["partition-id"])
        count = 0 if own else int(node["num-partitions"])
        rank = int(node.get("rank", 0))
        shares = bool(node.get("share-digests", True))
        return cls(config, partition, count, node_name(node, node_id), rank, share_digests=shares)

    @cached_property
    def federation(self) -> Federation:
        """The dataset this node's images come from, in the run's classes."""
        return in_label_space(self._loaded, self.classes or self._loaded.class_names)

    @property
    def _loaded(self) -> Federation:
        config = self.config
        source = config.dataset, config.protocol, self._fit, config.on_leak
        if self.partition is None:
            return load_federation(*source, own=True)
        return load_federation(*source)  # as the server does, so that one process reads it once

    @property
    def own_parts(self) -> tuple[HeldOutPart, ...]:
        """What the run's protocol holds out of its own data, in its own classes."""
        return self._loaded.parts if self.partition is None else ()

    @cached_property
    def data(self) -> ClientData:
        """This node's training and test images."""
        own = self.partition is None
        images = self.federation.train if own else self._share(self.partition or 0)
        config = self.config
        data = divide(
            images,
            config.local_test_fraction,
            config.seed,
            self.key,
            config.calibration_fraction,
            self.federation.shots,
        )
        if own:  # all shares together are for the server to look at
            for note in check_division(self.federation, [data], config.on_leak):
                logger.warning("Data: %s", note)
        salt, copies = self.left_out
        if not copies:
            return data
        train, calibration = (
            without(images, unpacked(copies), salt) for images in (data.train, data.calibration)
        )
        return replace(data, train=train, calibration=calibration)

    def _share(self, number: int) -> LabelledImages:
        config = self.config
        shares = _shares(
            config.dataset,
            config.protocol,
            self._fit,
            config.on_leak,
            config.partition,
            self.num_partitions,
            config.seed,
        )
        own, names = self._loaded.class_names, self.federation.class_names
        return relabelled(shares[number], own, names)

    @property
    def _fit(self) -> Fit:
        return image_fit(self.config.model, self.config.augmentation)

    @property
    def device(self) -> torch.device:
        """Where this node computes."""
        return resolve_device(self.config.device)

    def classifier(self) -> ClipClassifier:
        """Return the process's classifier; what is tuned in it must be restored before use."""
        config, data = self.config, self.federation
        return tuned_classifier(
            config.model,
            config.method,
            data.class_names,
            data.templates,
            config.seed,
            self.device,
            gradient_checkpointing=config.gradient_checkpointing,
        )

    def initial(self) -> Adapter:
        """Return the adapter that a run in this node's classes begins with, not to be changed."""
        return self.classifier().initial

    def zero_shot_classifier(self) -> ClipClassifier:
        """Return the process's untuned classifier."""
        data = self.federation
        return zero_shot_classifier(
            self.config.model, data.class_names, data.templates, self.device
        )

    def prefix_features(self, part: str, *, zero_shot: bool = False) -> Tensor | None:
        """Return the prefix features of this node's images, computed once; see ``PrefixStore``.

        Args:
            part: of ``data``: ``train``, ``test`` or ``calibration``.
            zero_shot: those of the untuned classifier.

        Returns:
            None where there is nothing to keep: caching is off, the method tunes from the first
            block on, training draws new views in every step, there is no image, or no room.
        """
        config, views = self.config, self.views(part)
        if part == "train" and views == PLAIN and config.augmentation != "none":
            return None
        classifier = self.zero_shot_classifier() if zero_shot else self.classifier()
        return self.features_of(classifier, getattr(self.data, part), part, views)

    def features_of(
        self, classifier: ClipClassifier, images: LabelledImages, part: str, views: Views = PLAIN
    ) -> Tensor | None:
        """Return the prefix features of some of this node's images, which ``part`` names."""
        config = self.config
        store = shared_store(config.cache_gib if config.cache_features else 0.0, config.cache_dir)
        # A copy without the images: what is remembered keeps its keys alive.
        key = replace(self), part
        return store.features(classifier, images.images, key, config.eval_batch_size, views)

    def views(self, part: str) -> Views:
        """Return which views of a part of ``data`` are kept; see ``fixed-views``."""
        config = self.config
        if part != "train" or not config.fixed_views:
            return PLAIN
        seed = derive_seed(config.seed, "views", self.key)
        return Views(config.augmentation, config.fixed_views, seed)

    def check_views(self) -> None:
        """Refuse fixed views that would not fit into memory.

        Raises:
            UserError: how much they need, and how much there is.
        """
        config, images = self.config, self.data.train.images
        if not config.fixed_views or not len(images):
            return
        classifier = self.classifier()
        if classifier.image_prefix is None:  # refused by the server
            return
        needed = bytes_needed(classifier, images, self.views("train"))
        if needed > int(config.cache_gib * 2**30):
            raise UserError(
                f"fixed-views: {config.fixed_views} views of {len(images)} images need "
                f"{needed / 2**30:.3g} GiB, found cache-gib={config.cache_gib:g}"
            )

    def reference(self) -> ZeroShotReference:
        """Return the frozen model's view of this node's training images."""
        features = self.prefix_features("train", zero_shot=True)
        return ZeroShotReference(self.zero_shot_classifier(), features)


@lru_cache(maxsize=4)
def _config_of(items: tuple[tuple[str, type, Value], ...]) -> RunConfig:
    """Return a run config, read once for all nodes that one process is; ``True`` is not ``1``."""
    return RunConfig.from_flat({key: value for key, _, value in items})


@lru_cache(maxsize=1)
def _shares(
    dataset: str,
    protocol: str,
    fit: Fit,
    on_leak: OnLeak,
    partition: str,
    num_clients: int,
    seed: int,
) -> list[LabelledImages]:
    return share_out(load_federation(dataset, protocol, fit, on_leak), partition, num_clients, seed)
