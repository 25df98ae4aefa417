"""The ``.npz`` files of MedMNIST."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl2ora.experiment.errors import UserError, listed

_SMALL, _RATIO = 2**26, 100  # bytes, and times what is packed: images take a tenth, zeros 1/1000


def read_medmnist(
    path: Path, part: str, side: int, classes: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read ``<part>_images`` and ``<part>_labels``; nothing in the file is executed.

    Args:
        path: the ``.npz``.
        part: ``train``, ``val`` or ``test``.
        side: height and width of its images.
        classes: number of classes.

    Returns:
        Images ``(N, C, side, side)``, C is 1 or 3, and labels ``(N,)``.

    Raises:
        UserError: the file is missing, damaged or another set's.
    """
    images, labels = _arrays(path, (f"{part}_images", f"{part}_labels"))
    grey = images.ndim == 3
    if images.dtype != np.uint8 or images.shape[1:] != ((side, side) if grey else (side, side, 3)):
        raise UserError(
            f"{path}: {part}_images: expected uint8 of shape (N, {side}, {side}) or "
            f"(N, {side}, {side}, 3), found {images.dtype} of shape {images.shape}"
        )
    if labels.dtype.kind not in "iu" or labels.shape != (len(images), 1):
        raise UserError(
            f"{path}: {part}_labels: expected whole numbers of shape ({len(images)}, 1), "
            f"found {labels.dtype} of shape {labels.shape}"
        )
    if labels.size and not 0 <= labels.min() <= labels.max() < classes:
        raise UserError(
            f"{path}: {part}_labels: expected 0 to {classes - 1}, found {labels.min()} to "
            f"{labels.max()}"
        )
    channels = images[:, None] if grey else images.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(channels), labels[:, 0].astype(np.int64)


def _arrays(path: Path, names: tuple[str, str]) -> tuple[NDArray[Any], NDArray[Any]]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            lacking = [name for name in names if name not in archive.files]
            if lacking:
                raise UserError(
                    f"{path}: expected {', '.join(names)} in it, found {listed(archive.files)}"
                )
            for name in names:
                _bounded(path, archive.zip.getinfo(f"{name}.npy"))
            return archive[names[0]], archive[names[1]]
    except UserError:
        raise
    except OSError as error:
        what = error.strerror or "something else"
        raise UserError(f"{path}: expected an .npz file, found {what}") from None
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, MemoryError) as error:
        raise UserError(
            f"{path}: expected a whole .npz file of plain arrays, found otherwise: {error}"
        ) from None


def _bounded(path: Path, member: zipfile.ZipInfo) -> None:
    """Refuse a member that would unpack to far more than images do."""
    most = _SMALL + _RATIO * member.compress_size
    if member.file_size > most:
        raise UserError(
            f"{path}: {member.filename}: expected at most {most:,} bytes of "
            f"{member.compress_size:,} compressed ones, found {member.file_size:,}"
        )
