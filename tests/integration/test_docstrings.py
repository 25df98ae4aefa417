"""Every example in a docstring of ours runs as printed."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    path.relative_to(ROOT)
    for room in (ROOT / "fl2ora").iterdir()
    if room.is_dir() and room.name != "__pycache__"
    for path in (ROOT / room.name).rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


def test_docstring_examples_are_found() -> None:
    assert len(FILES) > 20


@pytest.mark.parametrize("file", FILES, ids=str)
def test_examples_run_as_printed(file: Path) -> None:
    parts = ["fl2ora", *file.with_suffix("").parts]
    name = ".".join(part for part in parts if part != "__init__")
    found = doctest.testmod(importlib.import_module(name), extraglobs={"np": np})
    assert found.attempted > 0
    assert found.failed == 0
