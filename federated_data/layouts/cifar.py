"""CIFAR-10 and CIFAR-100: the python and binary versions, extracted or as the ``.tar.gz``.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009,
https://www.cs.toronto.edu/~kriz/cifar.html. An archive is read in memory, never extracted; of a
pickle nothing is executed (``plain_pickle``).
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl2ora.experiment.errors import UserError, shown
from fl2ora.federated_data.layouts.plain_pickle import read_plain_pickle
from fl2ora.federated_data.layouts.roots import find_root

_PIXELS = 3 * 32 * 32
_LARGEST = 1 << 28  # bytes of one file; the largest published one has 156 million


@dataclass(frozen=True)
class Version:
    """One of the published forms of a data set.

    Attributes:
        folder: what the archive extracts to.
        archive: name of the ``.tar.gz``.
        train, test: its files.
        labels: names of a row's labels, the one to train on last: keys of a pickle, and the bytes
            before the pixels of a binary record.
    """

    folder: str
    archive: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    labels: tuple[str, ...]

    @property
    def pickled(self) -> bool:
        """Whether the files are pickles."""
        return not self.test[0].endswith(".bin")


_FIVE = range(1, 6)
CIFAR10 = (
    Version(
        "cifar-10-batches-py",
        "cifar-10-python.tar.gz",
        tuple(f"data_batch_{number}" for number in _FIVE),
        ("test_batch",),
        ("labels",),
    ),
    Version(
        "cifar-10-batches-bin",
        "cifar-10-binary.tar.gz",
        tuple(f"data_batch_{number}.bin" for number in _FIVE),
        ("test_batch.bin",),
        ("labels",),
    ),
)
_FINE = ("coarse_labels", "fine_labels")
CIFAR100 = (
    Version("cifar-100-python", "cifar-100-python.tar.gz", ("train",), ("test",), _FINE),
    Version("cifar-100-binary", "cifar-100-binary.tar.gz", ("train.bin",), ("test.bin",), _FINE),
)


@dataclass(frozen=True)
class Found:
    """Where a data set lies: a folder, or a ``.tar.gz`` that holds it."""

    version: Version
    path: Path


def find_cifar(root: str, versions: Sequence[Version], how: str) -> Found:
    """Return the first version that is there, extracted ones before archives.

    Args:
        root: the folder that holds the archive or what it extracts to, or the latter itself;
            empty: ``$FL2ORA_DATA_DIR``.
        versions: those to look for.
        how: how to get one, for the error.

    Raises:
        UserError: none is there.
    """
    wanted = [(v, v.folder, [*v.train, *v.test]) for v in versions]
    wanted += [(v, "", [v.archive]) for v in versions]
    for version, folder, files in wanted:
        try:
            base = find_root(root, folder or version.folder, files, how)
        except UserError:
            continue
        return Found(version, base if folder else base / version.archive)
    names = [f"{v.folder}/" for v in versions] + [v.archive for v in versions]
    try:
        find_root(root, versions[0].folder, [*versions[0].train, *versions[0].test], how)
    except UserError as error:
        raise UserError(f"{error} (any of {', '.join(names)} will do)") from None
    raise AssertionError


def read_cifar(found: Found, part: str) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.int64]]]:
    """Read the images and labels of ``train`` or ``test``.

    Returns:
        Images ``(N, 3, 32, 32)`` and, by name, labels ``(N,)``.

    Raises:
        UserError: a file is missing, damaged or another's.
    """
    version = found.version
    names = version.train if part == "train" else version.test
    decode = _of_pickle if version.pickled else _of_records
    read = [
        decode(content, found.path / name, version.labels)
        for name, content in _contents(found, names)
    ]
    images = np.concatenate([pixels for pixels, _ in read]).reshape(-1, 3, 32, 32)
    labels = {
        name: np.concatenate([found_labels[name] for _, found_labels in read])
        for name in version.labels
    }
    return images, labels


def _contents(found: Found, names: Sequence[str]) -> list[tuple[str, bytes]]:
    if found.path.is_dir():
        return [(name, _file(found.path / name)) for name in names]
    return _from_archive(found.path, found.version.folder, names)


def _file(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            content = stream.read(_LARGEST + 1)
    except OSError as error:
        raise UserError(f"{path}: expected a file of CIFAR, found {error.strerror}") from None
    return _bounded(path, content)


def _from_archive(path: Path, folder: str, names: Sequence[str]) -> list[tuple[str, bytes]]:
    """Read some members of a ``.tar.gz``; nothing is written anywhere."""
    wanted = {f"{folder}/{name}": name for name in names}
    read: dict[str, bytes] = {}
    try:
        with gzip.open(path) as plain, tarfile.open(fileobj=plain, mode="r|") as archive:
            for member in archive:
                name = wanted.get(member.name.removeprefix("./"))
                if name is None or not member.isfile() or name in read:
                    continue
                stream = archive.extractfile(member)
                content = b"" if stream is None else stream.read(_LARGEST + 1)
                if len(content) < min(member.size, _LARGEST):
                    raise EOFError(f"{member.name} ends early")
                read[name] = _bounded(path / name, content)
                if len(read) == len(names):
                    break
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: expected a whole .tar.gz, found it damaged: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: expected an archive, found {error.strerror or error}") from None
    lacking = [f"{folder}/{name}" for name in names if name not in read]
    if lacking:
        raise UserError(f"{path}: expected {', '.join(lacking)} in it, found no such file")
    return [(name, read[name]) for name in names]


def _bounded(path: Path, content: bytes) -> bytes:
    if len(content) > _LARGEST:
        raise UserError(f"{path}: expected at most {_LARGEST} bytes, found more")
    return content


def _of_records(
    content: bytes, path: Path, labels: Sequence[str]
) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.int64]]]:
    width = len(labels) + _PIXELS
    if not content or len(content) % width:
        raise UserError(
            f"{path}: expected records of {width} bytes ({len(labels)} of labels), "
            f"found {len(content)} bytes"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, width)
    found = {name: records[:, place].astype(np.int64) for place, name in enumerate(labels)}
    return records[:, len(labels) :], found


def _of_pickle(
    content: bytes, path: Path, labels: Sequence[str]
) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.int64]]]:
    value = read_plain_pickle(content, path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a dict, found {type(value).__name__}")
    batch = {_text(key): item for key, item in value.items()}
    missing = [key for key in ("data", *labels) if key not in batch]
    if missing:
        raise UserError(
            f"{path}: expected data and {', '.join(labels)}, found {', '.join(map(shown, batch))}"
        )
    data = batch["data"]
    if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != _PIXELS:
        what = getattr(data, "shape", type(data).__name__)
        raise UserError(f"{path}: expected data of shape (N, {_PIXELS}), found {what}")
    return data, {name: _numbers(path, name, batch[name], len(data)) for name in labels}


def _numbers(path: Path, name: str, found: Any, count: int) -> NDArray[np.int64]:
    whole = isinstance(found, list) and all(type(number) is int for number in found)
    if not whole or len(found) != count:
        what = f"{len(found)} values" if isinstance(found, list) else type(found).__name__
        raise UserError(f"{path}: expected {count} whole numbers in {name}, found {what}")
    return np.array(found, dtype=np.int64)


def _text(key: Any) -> str:
    return key.decode("latin-1") if isinstance(key, bytes) else str(key)
