"""Reading IDX files, the format of MNIST and its relatives, plain or gzipped."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl2ora.experiment.errors import UserError

_GZIP_MAGIC = b"\x1f\x8b"


def _dtype(code: int) -> np.dtype[Any] | None:
    """Return the big-endian element type of an IDX type code, None if there is no such code."""
    names = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
    return np.dtype(names[code]) if code in names else None


def _read_bytes(path: Path) -> bytes:
    """Return a file's bytes, unpacked where they begin with gzip's magic number."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: expected an IDX file, found no such file") from None
    if content[:2] != _GZIP_MAGIC:
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: expected a whole gzip file, found it damaged: {error}") from None


def read_idx(path: str | Path) -> NDArray[Any]:
    """Read one IDX file.

    The format: two zero bytes, a type code, the number of dimensions, each dimension as a
    big-endian 32-bit number, then the elements in row-major order
    (LeCun, Cortes and Burges, http://yann.lecun.com/exdb/mnist/).

    Args:
        path: the file, plain or gzipped; its content decides which, not its name.

    Returns:
        An array of the file's dimensions, in the machine's byte order.

    Raises:
        UserError: if there is no such file, or it is not IDX, is damaged, cut short or too long.
    """
    path = Path(path)
    content = _read_bytes(path)
    if len(content) < 4:
        raise UserError(f"{path}: expected an IDX header of 4 bytes, found {len(content)} bytes")
    if content[:2] != b"\x00\x00":
        raise UserError(
            f"{path}: expected an IDX file to begin with 00 00, found {content[:2].hex(' ')}"
        )
    dtype, count = _dtype(content[2]), content[3]
    if dtype is None:
        raise UserError(
            f"{path}: expected an IDX type code of 08, 09, 0b, 0c, 0d or 0e, found {content[2]:02x}"
        )
    start = 4 + 4 * count
    if len(content) < start:
        raise UserError(
            f"{path}: expected {start} bytes of header for {count} dimensions, "
            f"found {len(content)} bytes in all"
        )
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", count, offset=4))
    expected = start + int(np.prod(shape, dtype=object)) * dtype.itemsize
    if len(content) != expected:
        raise UserError(
            f"{path}: expected {expected} bytes for shape {shape} of {dtype.itemsize} bytes each, "
            f"found {len(content)}"
        )
    array = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return array.astype(dtype.newbyteorder("="))
