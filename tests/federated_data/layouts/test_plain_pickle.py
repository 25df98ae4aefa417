"""Pickles are read without executing anything of them."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl2ora.experiment.errors import UserError
from fl2ora.federated_data.layouts.plain_pickle import read_plain_pickle
from miniature_layouts import python2_batch

HERE = Path("batch")
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False)
    | st.text(max_size=5) | st.binary(min_size=1, max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple)
    | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


class Runs:
    """Creates a file when its pickle is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@given(PLAIN, st.integers(2, 5))
def test_plain_values_come_back_equal(value: object, protocol: int) -> None:
    assert read_plain_pickle(pickle.dumps(value, protocol), HERE) == value


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_byte_arrays_come_back_equal(protocol: int) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(4, 6)
    found = read_plain_pickle(pickle.dumps({"data": array, "n": [1, 2]}, protocol), HERE)
    assert found["n"] == [1, 2]
    assert found["data"].dtype == np.uint8
    assert np.array_equal(found["data"], array)


def test_a_batch_of_python_2_is_what_pickle_makes_of_it() -> None:
    pixels = np.arange(600, dtype=np.uint16).astype(np.uint8).reshape(3, 200)
    content = python2_batch(pixels, labels=[7, 8, 9])
    theirs = pickle.loads(content, encoding="bytes")
    ours = read_plain_pickle(content, HERE)
    assert ours.keys() == theirs.keys() == {b"batch_label", b"labels", b"data"}
    assert np.array_equal(ours[b"data"], theirs[b"data"])
    assert np.array_equal(ours[b"data"], pixels)
    assert ours[b"labels"] == theirs[b"labels"] == [7, 8, 9]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("inside", [False, True])
def test_a_crafted_pickle_does_not_run(tmp_path: Path, protocol: int, inside: bool) -> None:
    target = tmp_path / "made"
    value = {"data": [Runs(target)]} if inside else Runs(target)
    content = pickle.dumps(value, protocol)
    with pytest.raises(UserError, match=r"batch: expected a pickle of numbers.*nothing of it was"):
        read_plain_pickle(content, HERE)
    assert not target.exists()
    pickle.loads(content)  # as it would have
    assert target.is_dir()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cbuiltins\neval\n(U\x05exit(tR.", r"the name 'builtins.eval'"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02ls\x85R.", r"the name 'os.system'"),
        (b"ios\nsystem\n.", r"the instruction INST"),
        (b"(cnumpy\nndarray\no.", r"the instruction OBJ"),
        (b"cnumpy\nndarray\n)\x81.", r"the instruction NEWOBJ"),
        (b"cnumpy\nndarray\n(K\x02\x85tR.", r"a call of numpy.ndarray"),
        (b"cnumpy\nndarray\n.", r"the name numpy.ndarray as a value"),
        (b"cnumpy.core.multiarray\nscalar\n.", r"the name 'numpy.core.multiarray.scalar'"),
        (b"P1\n.", r"the instruction PERSID"),
        (b"\x82\x01.", r"the instruction EXT1"),
        (b"\x80\x05\x97.", r"the instruction NEXT_BUFFER"),
        (b"c_codecs\nencode\n(X\x01\x00\x00\x00aU\x04zlibtR.", r"another coding than Latin-1"),
        (b"(U\x03bade.", r"an instruction for a list without one"),
        (b"a.", r"a value that is not there"),
        (b"t.", r"a mark that is not there"),
        (b"h\x07.", r"a value that was not kept"),
        (b"}](K\x01es.", r"an instruction for a dict without one"),
        (b"}(]K\x01u.", r"a dict whose keys are no texts"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_plain_pickle(content, HERE)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.replace(b"U\x02u1", b"U\x02O8"),
        lambda c: c.replace(b"M\xc8\x00", b"M\xc9\x00"),
        lambda c: c.replace(b"\x89T", b"\x88T"),
    ],
    ids=["objects", "shape", "order"],
)
def test_arrays_of_anything_but_bytes_are_refused(change: Any) -> None:
    content = python2_batch(np.zeros((3, 200), np.uint8), labels=[1, 2, 3])
    assert change(content) != content
    with pytest.raises(UserError, match="an array "):
        read_plain_pickle(change(content), HERE)


def test_a_truncated_pickle_is_named() -> None:
    content = python2_batch(np.zeros((3, 200), np.uint8), labels=[1, 2, 3])
    for length in (0, 1, 20, 60, len(content) // 2, len(content) - 1):
        with pytest.raises(UserError, match=r"batch: expected a (whole )?pickle"):
            read_plain_pickle(content[:length], HERE)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_one_line(content: bytes) -> None:
    said = ""
    try:
        read_plain_pickle(content, HERE)
    except UserError as error:
        said = str(error)
    assert "\n" not in said
