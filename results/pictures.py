"""Image files for a classifier, decoded and scaled as those of a dataset are."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fl2ora.experiment.errors import UserError, shown
from fl2ora.experiment.image_fit import Fit
from fl2ora.experiment.paths import user_path
from fl2ora.federated_data.folders.tree import ENDINGS
from fl2ora.federated_data.store.decode import BadImageError, decode, decoding

_AT_ONCE = 64  # files


@dataclass(frozen=True)
class Pictures:
    """Some image files.

    Attributes:
        paths: N files that are images.
        images: ``(N, 3, R, R)`` uint8, of ``paths``.
        bad: why a file is none that can be used, by its path.
    """

    paths: tuple[Path, ...]
    images: Tensor
    bad: dict[Path, str]


def find_images(names: Sequence[str]) -> list[Path]:
    """Return the files that names on a command line stand for, each once, in order.

    Args:
        names: of files, of folders, whose image files are found at any depth, and patterns with
            ``*``, ``?`` or ``[...]``.

    Raises:
        UserError: there is nothing of a name, or no image file in a folder.
    """
    found: dict[Path, None] = {}
    for name in names:
        path = user_path(name)
        if name and path.is_dir():
            inside = _inside(path)
            if not inside:
                kinds = ", ".join(ENDINGS)
                raise UserError(f"{name}: expected image files ({kinds}) in the folder, found none")
            found |= dict.fromkeys(inside)
        elif path.is_file():
            found[path] = None
        else:
            matches = sorted(glob.glob(str(path), recursive=True)) if glob.has_magic(name) else []
            files = [Path(match) for match in matches if os.path.isfile(match)]
            if not files:
                raise UserError(f"expected an image, a folder or a pattern, found {shown(name)}")
            found |= dict.fromkeys(files)
    return list(found)


def read_images(paths: Iterable[Path], fit: Fit) -> Iterator[Pictures]:
    """Yield image files, some dozens at a time; what cannot be used is told by name.

    Args:
        paths: of the files.
        fit: how the model wants images; ``Predictor.fit``.
    """
    waiting: list[Path] = []
    for path in paths:
        waiting.append(path)
        if len(waiting) == _AT_ONCE:
            yield _read(waiting, fit)
            waiting = []
    if waiting:
        yield _read(waiting, fit)


def _read(paths: Sequence[Path], fit: Fit) -> Pictures:
    good: list[Path] = []
    images: list[Tensor] = []
    bad: dict[Path, str] = {}
    with decoding():
        for path in paths:
            try:
                images.append(torch.from_numpy(decode(path.read_bytes(), fit).pixels))
                good.append(path)
            except BadImageError as error:
                bad[path] = str(error)
            except OSError as error:
                bad[path] = error.strerror or str(error)
    stacked = (
        torch.stack(images)
        if images
        else torch.zeros((0, 3, fit.resize, fit.resize), dtype=torch.uint8)
    )
    return Pictures(tuple(good), stacked, bad)


def _inside(folder: Path) -> list[Path]:
    found = []
    for where, folders, files in os.walk(folder):
        folders.sort()
        found += [
            Path(where) / name
            for name in sorted(files)
            if Path(name).suffix.lower() in ENDINGS and not name.startswith(".")
            if os.path.isfile(os.path.join(where, name))  # and no pipe, which would be waited for
        ]
    return found
