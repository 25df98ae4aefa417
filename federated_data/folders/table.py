"""Listing image files from a CSV or Parquet table."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from fl2ora.experiment.errors import UserError, listed, nearest, shown
from fl2ora.federated_data.folders.listing import Listing, split_named

NEEDED = ("path", "label")

_MOST_LINES = 10**7


def list_table(root: Path, table: Path, columns: Mapping[str, str], needed: set[str]) -> Listing:
    """Return the image files that a table names.

    Args:
        root: the folder that relative paths start from.
        table: ``.csv``, ``.tsv`` or ``.parquet``, a line for each image.
        columns: what its columns ``path``, ``label``, ``domain``, ``client`` and ``split`` are
            called.
        needed: those of ``columns`` that there must be, beside path and label.

    Raises:
        UserError: the table cannot be read, lacks a column or a value, names an image twice, or one
            that does not exist.
    """
    frame = _read(table)
    found = {}
    for kind, column in columns.items():
        if column in frame.columns:
            found[kind] = _texts(frame[column], table, column)
        elif kind in NEEDED or kind in needed:
            names = [str(name) for name in frame.columns]
            raise UserError(
                f"{table}: expected a column {column!r} ({kind} of each image), "
                f"found {listed(names)}{nearest(column, names)}"
            )
    if not len(frame):
        raise UserError(f"{table}: expected a line for each image, found none")
    paths = [os.path.join(root, path) for path in found["path"]]
    _check_paths(table, paths)
    words = found.get("split")
    known = {word: split_named(word, f"{table}: {columns['split']}") for word in set(words or ())}
    return Listing(
        paths=paths,
        labels=found["label"],
        domains=found.get("domain"),
        clients=found.get("client"),
        splits=None if words is None else [known[word] for word in words],
        classes=tuple(sorted(set(found["label"]))),
    )


def _read(table: Path) -> pd.DataFrame:
    ending = table.suffix.lower()
    try:
        if ending == ".parquet":
            return _parquet(table)
        if ending in (".csv", ".tsv"):
            separator = "," if ending == ".csv" else "\t"
            return pd.read_csv(table, sep=separator, dtype=str, keep_default_na=False)
    except ImportError:
        raise UserError(f"{table}: reading Parquet needs pyarrow: pip install pyarrow") from None
    except UserError:
        raise
    except Exception as error:  # pandas and pyarrow raise all kinds
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{table}: cannot be read: {line}") from None
    raise UserError(f"{table}: expected .csv, .tsv or .parquet, found {shown(ending)}")


def _parquet(table: Path) -> pd.DataFrame:
    """Read a Parquet file, if it does not say that it has far too many lines."""
    from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]

    with ParquetFile(table) as file:
        if file.metadata.num_rows > _MOST_LINES:
            raise UserError(
                f"{table}: expected at most {_MOST_LINES:,} lines, found {file.metadata.num_rows:,}"
            )
    return pd.read_parquet(table)


def _texts(column: Any, table: Path, name: str) -> list[str]:
    """Return a column as text."""
    lacking = column.isna().to_numpy()
    texts = [
        "" if gone else str(value).strip() for value, gone in zip(column, lacking, strict=True)
    ]
    if "" in texts:
        raise UserError(
            f"{table}: {name}: expected a value in each line, found none in line "
            f"{texts.index('') + 1} below the header"
        )
    return texts


def _check_paths(table: Path, paths: list[str]) -> None:
    if len(set(paths)) != len(paths):
        twice = Counter(paths).most_common(1)[0][0]
        raise UserError(f"{table}: expected each image once, found {twice} twice")
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        raise UserError(
            f"{table}: {len(missing):,} of {len(paths):,} images do not exist, "
            f"the first: {missing[0]}"
        )
