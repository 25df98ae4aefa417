"""Loading a dataset with the library ``datasets``, and which of its splits are which."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fl2ora.experiment.errors import UserError, listed, nearest, shown
from fl2ora.experiment.paths import user_path, what_is_at

_HUB_NAME = re.compile(r"\w[\w.-]{0,95}(/\w[\w.-]{0,95})?", re.ASCII)
_USUAL = {
    "train": ("train",),
    "test": ("test",),
    "validation": ("validation", "valid", "val", "dev"),
}


def load_splits(name: str, config: str, revision: str) -> dict[str, Any]:
    """Return the splits of a dataset by their names.

    Args:
        name: on the hub, or a folder.
        config: empty: the only one.
        revision: empty: the newest.

    Raises:
        UserError: the library is missing, or the dataset cannot be loaded, with the reason.
    """
    try:
        import datasets
    except ImportError:
        raise UserError("hub needs the library datasets: pip install 'fl2ora[hub]'") from None
    folder = local_folder(name)
    try:
        if folder is not None and _saved(folder):
            found = datasets.load_from_disk(str(folder))
        else:
            source = name if folder is None else str(folder)
            found = datasets.load_dataset(source, config or None, revision=revision or None)
    except Exception as error:  # the library and the network raise all kinds
        line = (str(error).strip().splitlines() or [""])[0]
        where = " from the hub or its cache" if folder is None else ""
        raise UserError(
            f"{name}: cannot be loaded{where}: {type(error).__name__}: {line}"
        ) from error
    return dict(found) if hasattr(found, "keys") else {"train": found}


def local_folder(name: str) -> Path | None:
    """Return the folder that a name means; None if it is one of the hub.

    Raises:
        UserError: it is neither, or it could be either.
    """
    folder = user_path(name)
    is_path = folder.is_absolute() or name.startswith((".", "~"))
    if is_path and not folder.is_dir():
        raise UserError(f"name: expected a folder, found {what_is_at(folder)}: {folder}")
    if is_path:
        return folder
    if not _HUB_NAME.fullmatch(name):
        raise UserError(
            "name: expected one of the hub such as 'cifar10' or 'owner/name', or a folder that "
            f"begins with / or ./, found {shown(name)}"
        )
    if folder.is_dir():
        raise UserError(f"name: expected './{name}' for the folder, or another name for the hub's")
    return None


def find_splits(splits: Mapping[str, Any], named: Mapping[str, str]) -> dict[str, Any]:
    """Return the splits for training, validation and testing.

    Args:
        splits: by the names they have in the dataset.
        named: by ours, those that the user names; empty: the usual names.

    Returns:
        By our names; None where there is none. Validation images are tested on where there are no
        test images.

    Raises:
        UserError: there is none of that name, none to train on, or one stands for two.
    """
    chosen = {}
    for ours, usual in _USUAL.items():
        if named[ours] and named[ours] not in splits:
            raise UserError(
                f"{ours}_split: expected one of {listed(splits)}, found {named[ours]!r}"
                f"{nearest(named[ours], splits)}"
            )
        fitting = [name for name in usual if name in splits]
        chosen[ours] = named[ours] or (fitting[0] if fitting else "")
    if not chosen["test"] and not named["validation"]:
        chosen["test"], chosen["validation"] = chosen["validation"], ""
    if not chosen["train"]:
        raise UserError(
            f"train_split: expected the name of one of {listed(splits)}: none is called train"
        )
    used = [name for name in chosen.values() if name]
    if len(set(used)) != len(used):
        raise UserError(
            "train_split, validation_split and test_split: expected different splits, found "
            f"{', '.join(used)}"
        )
    return {ours: splits[name] if name else None for ours, name in chosen.items()}


def _saved(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))
