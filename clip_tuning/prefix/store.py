"""Prefix features of many images, computed once and kept in memory and in files."""

from __future__ import annotations

import os
import tempfile
from collections import OrderedDict
from collections.abc import Hashable
from functools import lru_cache
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.image_source import Images, images_key
from fl2ora.clip_tuning.prefix.digest import digest
from fl2ora.clip_tuning.prefix.features import (
    PLAIN,
    Views,
    bytes_needed,
    prefix_features,
    prefix_of,
)
from fl2ora.experiment.errors import UserError

_NAME = "features"
_FORMAT = 2  # goes up when the same model and images come to give other values
_PARTS = 4096  # parts whose digests are remembered


class PrefixStore:
    """Prefix features by a digest of all they depend on: the latest in memory, all in a folder.

    Args:
        limit: bytes in memory; 0 keeps nothing.
        folder: is created; None keeps nothing on disk.
    """

    def __init__(self, limit: int, folder: Path | None = None) -> None:
        self._limit = limit
        self._folder = folder
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self._digests: OrderedDict[Hashable, str] = OrderedDict()

    def features(
        self,
        classifier: ClipClassifier,
        images: Images,
        part_key: Hashable,
        batch_size: int = 256,
        views: Views = PLAIN,
        at_once: int = 1,
    ) -> Tensor | None:
        """Return the prefix features of raw ``images (N, C, H, W)`` uint8, on the CPU.

        Args:
            classifier: whose prefix; it may be put into evaluation mode.
            images: raw.
            part_key: names these very images in this process, so that they are digested once.
            batch_size: images encoded at once.
            views: of the images.
            at_once: batches computed at once; see ``predict``.

        Returns:
            None where there is nothing to keep: the classifier has no prefix, there is no image, or
            the features are larger than the limit.

        Raises:
            UserError: the folder cannot be written to.
        """
        if classifier.image_prefix is None or not len(images) or self._limit <= 0:
            return None
        key = features_key(classifier, self._digest(images, part_key), views)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        path = None if self._folder is None else self._folder / f"{key}.safetensors"
        features = None if path is None else _read(path, self._limit)
        if features is None:
            if bytes_needed(classifier, images, views) > self._limit:
                return None
            features = prefix_features(classifier, images, batch_size, views, at_once)
            if path is not None:
                _write(path, features)
        self._kept[key] = features
        while sum(held.nbytes for held in self._kept.values()) > self._limit:
            self._kept.popitem(last=False)
        return features

    def _digest(self, images: Images, part_key: Hashable) -> str:
        named = (part_key, images.shape)
        if named not in self._digests:
            self._digests[named] = images_key(images)
            while len(self._digests) > _PARTS:
                self._digests.popitem(last=False)
        return self._digests[named]


@lru_cache(maxsize=4)
def shared_store(gib: float, folder: str) -> PrefixStore:
    """Return this process's store.

    Args:
        gib: GiB of memory; 0 keeps nothing.
        folder: for files; empty: none.
    """
    return PrefixStore(int(gib * 2**30), Path(folder).expanduser() if folder else None)


def features_key(classifier: ClipClassifier, images: str, views: Views = PLAIN) -> str:
    """Return a key of everything prefix features depend on: model, preprocessing, images, views.

    Args:
        classifier: has an ``image_prefix``.
        images: digest of the raw images.
        views: of the images.
    """
    name = prefix_of(classifier).name
    drawn = () if views == PLAIN else (views,)
    return digest(
        [], _FORMAT, name, classifier.vision_digest, classifier.preprocessing, images, *drawn
    )


def _read(path: Path, limit: int) -> Tensor | None:
    """Return a file's features; None of a missing or damaged file, or of one beyond the limit."""
    try:
        features: Tensor = load_file(path)[_NAME]
        return features if features.nbytes <= limit else None
    except (OSError, SafetensorError, KeyError):
        return None


def _write(path: Path, features: Tensor) -> None:
    """Write a file at once or not at all, whoever else writes it at the same time.

    Raises:
        UserError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            fresh = Path(scratch) / path.name
            save_file({_NAME: features.contiguous()}, fresh)
            os.replace(fresh, path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cache-dir: {path.parent} cannot be written to: {error}") from None
