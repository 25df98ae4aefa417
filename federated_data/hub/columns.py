"""Columns of a hub dataset: which hold images and labels, and what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fl2ora.experiment.errors import UserError, listed, nearest
from fl2ora.federated_data.images import DIGEST, Digests, digest_of

_LABELS = ("label", "labels", "fine_label")


class HubSource:
    """Encoded images in a column; see ``Source``.

    Args:
        part: a split of the library.
        column: of images.
        name: of the dataset, for messages.
    """

    def __init__(self, part: Any, column: str, name: str) -> None:
        from datasets import Image

        # What the split is made of has its print; the cast is of this process alone.
        self._print = getattr(part, "_fingerprint", "")
        images = part.select_columns([column]).cast_column(column, Image(decode=False))
        self._images, self._column, self._name = images, column, name

    def __len__(self) -> int:
        """See ``Source``."""
        return len(self._images)

    def name(self, index: int) -> str:
        """See ``Source``."""
        path = self._images[index][self._column].get("path") if len(self) else ""
        return f"{self._name}, image {index}" + (f" ({path})" if path else "")

    def read(self, index: int) -> bytes:
        """See ``Source``."""
        cell = self._images[index][self._column]
        if cell is None:
            return b""
        if cell.get("bytes") is not None:
            content: bytes = cell["bytes"]
            return content
        return Path(cell["path"]).read_bytes()

    def stamps(self) -> Digests:
        """See ``Source``."""
        if not self._print:
            return np.full(len(self), b"", dtype=DIGEST)
        said = (f"{self._print}\0{self._column}\0{row}".encode() for row in range(len(self)))
        return np.array([digest_of(text) for text in said], dtype=DIGEST)


def image_column(part: Any, wanted: str, name: str) -> str:
    """Return the column of images.

    Args:
        part: a split of the library.
        wanted: by the user; empty: the only one there is.
        name: of the dataset, for messages.

    Raises:
        UserError: there is no such column, or not just one.
    """
    if wanted:
        return _existing(part, wanted, "image_column", name)
    found: list[str] = [name for name, kind in part.features.items() if _holds_images(kind)]
    if len(found) != 1:
        columns = ", ".join(f"{column} ({_kind(kind)})" for column, kind in part.features.items())
        raise UserError(f"{name}: image_column: expected the name of one of {columns}")
    return found[0]


def label_column(part: Any, wanted: str, name: str) -> str:
    """Return the column of labels; see ``image_column``."""
    if wanted:
        return _existing(part, wanted, "label_column", name)
    classes = [column for column, kind in part.features.items() if hasattr(kind, "names")]
    usual = [column for column in _LABELS if column in part.features]
    found: list[str] = usual[:1] or classes
    if len(found) != 1:
        raise UserError(
            f"{name}: label_column: expected the name of one of {listed(part.column_names)}"
        )
    return found[0]


def texts_of(part: Any, column: str, argument: str, name: str) -> list[str]:
    """Return a column as texts, class names for the numbers of a column that has them.

    Raises:
        UserError: there is no such column, or a value is missing.
    """
    values = part[_existing(part, column, argument, name)]
    kind = part.features[column]
    names: list[str] = getattr(kind, "names", None) or []
    texts = []
    for row, value in enumerate(values):
        if value is None:
            raise UserError(
                f"{name}: {column}: expected a value in each row, found none in row {row}"
            )
        inside = isinstance(value, int) and 0 <= value < len(names)
        texts.append(names[value] if inside else str(value))
    return texts


def _existing(part: Any, column: str, argument: str, name: str) -> str:
    if column not in part.features:
        raise UserError(
            f"{name}: {argument}: expected one of {listed(part.column_names)}, found {column!r}"
            f"{nearest(column, part.column_names)}"
        )
    return column


def _holds_images(kind: Any) -> bool:
    """Return whether a column is of images, or of what they are stored as."""
    if type(kind).__name__ == "Image":
        return True
    return isinstance(kind, dict) and {"bytes", "path"} <= kind.keys()


def _kind(kind: Any) -> str:
    return str(getattr(kind, "dtype", type(kind).__name__))
