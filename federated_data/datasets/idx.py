"""Reading IDX files, the format of MNIST and its relatives, plain or gzipped."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fl2ora.experiment.errors import UserError

_GZIP_MAGIC = b"\x1f\x8b"
_BLOCK = 1 << 20


def _dtype(code: int) -> np.dtype[Any] | None:
    """Return the big-endian element type of an IDX type code, None if there is no such code."""
    names = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
    return np.dtype(names[code]) if code in names else None


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file, to be unpacked as it is read where it begins with gzip's magic number."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == _GZIP_MAGIC
            file.seek(0)
            with gzip.open(file) if packed else nullcontext(file) as stream:
                yield stream  # type: ignore[misc]
    except FileNotFoundError:
        raise UserError(f"{path}: expected an IDX file, found no such file") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: expected a whole gzip file, found it damaged: {error}") from None


def _read(stream: BinaryIO, size: int) -> bytes:
    """Read up to ``size`` bytes, reserving memory for those that come alone."""
    content = bytearray()
    while len(content) < size and (part := stream.read(min(size - len(content), _BLOCK))):
        content += part
    return bytes(content)


def read_idx(path: str | Path) -> NDArray[Any]:
    """Read one IDX file.

    The format: two zero bytes, a type code, the number of dimensions, each dimension as a
    big-endian 32-bit number, then the elements in row-major order
    (LeCun, Cortes and Burges, http://yann.lecun.com/exdb/mnist/).

    Args:
        path: the file, plain or gzipped; its content decides which, not its name.

    Returns:
        An array of the file's dimensions, in the machine's byte order. No more is unpacked than the
        header says there is.

    Raises:
        UserError: if there is no such file, or it is not IDX, is damaged, cut short or too long.
    """
    path = Path(path)
    with _opened(path) as stream:
        dtype, shape = _read_header(path, stream)
        size = int(np.prod(shape, dtype=object)) * dtype.itemsize
        # One byte more tells a file that is too long, however much a small gzip file would become.
        content = _read(stream, size + 1)
    if len(content) != size:
        start = 4 + 4 * len(shape)
        more = " or more" if len(content) > size else ""
        raise UserError(
            f"{path}: expected {start + size} bytes for shape {shape} of {dtype.itemsize} bytes "
            f"each, found {start + len(content)}{more}"
        )
    array = np.frombuffer(content, dtype).reshape(shape)
    return array.astype(dtype.newbyteorder("="))


def _read_header(path: Path, stream: BinaryIO) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Return the big-endian element type and the shape."""
    head = _read(stream, 4)
    if len(head) < 4:
        raise UserError(f"{path}: expected an IDX header of 4 bytes, found {len(head)} bytes")
    if head[:2] != b"\x00\x00":
        raise UserError(
            f"{path}: expected an IDX file to begin with 00 00, found {head[:2].hex(' ')}"
        )
    dtype, count = _dtype(head[2]), head[3]
    if dtype is None:
        raise UserError(
            f"{path}: expected an IDX type code of 08, 09, 0b, 0c, 0d or 0e, found {head[2]:02x}"
        )
    sizes = _read(stream, 4 * count)
    if len(sizes) < 4 * count:
        raise UserError(
            f"{path}: expected {4 + 4 * count} bytes of header for {count} dimensions, "
            f"found {4 + len(sizes)} bytes in all"
        )
    return dtype, tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
