"""IDX files: known bytes in, known arrays out; every damage has its own message."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.datasets.idx import read_idx

# Two images of 2x3: type code 08, three dimensions, 2, 2, 3, then the pixels.
IMAGES = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 3, *range(12)])


def _write(folder: Path, content: bytes, name: str = "file") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def test_plain_bytes(tmp_path: Path) -> None:
    array = read_idx(_write(tmp_path, IMAGES))
    assert array.dtype == np.uint8
    assert array.tolist() == [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]]
    assert array.flags.writeable


def test_gzip_is_known_by_its_content(tmp_path: Path) -> None:
    packed = _write(tmp_path, gzip.compress(IMAGES, mtime=0), "no-suffix")
    assert np.array_equal(read_idx(packed), np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
    plain = _write(tmp_path, IMAGES, "plain.gz")
    assert read_idx(str(plain)).shape == (2, 2, 3)


def test_other_element_types_are_big_endian(tmp_path: Path) -> None:
    int32 = bytes([0, 0, 0x0C, 1, 0, 0, 0, 2, 0, 0, 1, 0, 0xFF, 0xFF, 0xFF, 0xFF])
    array = read_idx(_write(tmp_path, int32))
    assert array.dtype == np.int32
    assert array.dtype.isnative
    assert array.tolist() == [256, -1]
    float64 = bytes([0, 0, 0x0E, 1, 0, 0, 0, 1, 0x3F, 0xF8, 0, 0, 0, 0, 0, 0])
    assert read_idx(_write(tmp_path, float64)).tolist() == [1.5]


def test_no_elements(tmp_path: Path) -> None:
    assert read_idx(_write(tmp_path, bytes([0, 0, 8, 1, 0, 0, 0, 0]))).shape == (0,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "header of 4 bytes, found 0 bytes"),
        (b"\x00\x00\x08", "header of 4 bytes, found 3 bytes"),
        (b"\x89PNG" + IMAGES, "begin with 00 00, found 89 50"),
        (b"\x00\x00\x07" + IMAGES[3:], "type code of .*, found 07"),
        (IMAGES[:10], "16 bytes of header for 3 dimensions, found 10 bytes"),
        (IMAGES[:-1], r"28 bytes for shape \(2, 2, 3\) of 1 bytes each, found 27"),
        (IMAGES + b"\x00", r"28 bytes for shape \(2, 2, 3\) of 1 bytes each, found 29"),
        (gzip.compress(IMAGES, mtime=0)[:-6], "whole gzip file, found it damaged"),
        (gzip.compress(IMAGES, mtime=0)[:-8] + bytes(8), "whole gzip file, found it damaged"),
        (b"\x1f\x8b\x00\x00" + bytes(20), "whole gzip file, found it damaged"),
        (bytes([0, 0, 8, 4] + [255] * 16), "found 20"),
    ],
)
def test_damage_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = _write(tmp_path, content)
    with pytest.raises(ValueError, match=message) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="absent: expected an IDX file, found no such file"):
        read_idx(tmp_path / "absent")


@pytest.mark.parametrize(
    ("head", "zeros", "message"),
    [
        (IMAGES, 50_000_000, "expected 28 bytes .* found 29 or more"),
        (b"\x89PNG", 50_000_000, "found 89 50"),
        (IMAGES[:4] + b"\xff" * 12, 1_000, "found 1016"),  # says it has 10^29 bytes
    ],
)
def test_memory_is_reserved_neither_for_more_than_the_header_says_nor_for_more_than_comes(
    tmp_path: Path, head: bytes, zeros: int, message: str
) -> None:
    path = _write(tmp_path, gzip.compress(head + bytes(zeros), mtime=0))
    tracemalloc.start()
    with pytest.raises(UserError, match=message):
        read_idx(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000
