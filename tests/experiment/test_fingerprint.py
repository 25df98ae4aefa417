"""The code's fingerprint: any byte of any room counts, nothing else does."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fl2ora.experiment import fingerprint
from fl2ora.experiment.fingerprint import ROOMS, code_fingerprint, code_root, library_versions


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a copy of the rooms that the fingerprint is taken of."""
    root = tmp_path / "copy"
    for room in ROOMS:
        shutil.copytree(code_root() / room, root / room)
    monkeypatch.setattr(fingerprint, "code_root", lambda: root)
    code_fingerprint.cache_clear()
    yield root
    code_fingerprint.cache_clear()


def _again() -> str:
    code_fingerprint.cache_clear()
    return code_fingerprint()


def test_fingerprint_is_sixteen_hex_digits_and_independent_of_location(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _again()
    assert re.fullmatch(r"[0-9a-f]{16}", before)
    shutil.move(tree, tmp_path / "elsewhere")
    monkeypatch.setattr(fingerprint, "code_root", lambda: tmp_path / "elsewhere")
    assert _again() == before


def test_every_room_that_a_node_runs_counts() -> None:
    rooms = {path.parent.name for path in code_root().glob("*/__init__.py")}
    assert set(ROOMS) == rooms - {"fl2ora", "commands", "engines", "pretraining", "results"}


@pytest.mark.parametrize("room", ROOMS)
def test_fingerprint_changes_with_any_source_byte(tree: Path, room: str) -> None:
    files = [p for p in sorted((tree / room).rglob("*.py")) if p.stat().st_size]
    before = _again()
    files[-1].write_bytes(files[-1].read_bytes()[:-1] + b"#")
    assert _again() != before


def _edit_json(root: Path) -> None:
    path = root / "clip_tuning" / "assets" / "config.json"
    path.write_bytes(path.read_bytes() + b" ")


def _rename(root: Path) -> None:
    (root / "strategies" / "averaging" / "fedavg.py").rename(root / "strategies" / "fedmean.py")


def _add(root: Path) -> None:
    (root / "strategies" / "empty.py").touch()


@pytest.mark.parametrize("change", [_edit_json, _rename, _add])
def test_json_files_and_names_count(tree: Path, change: Callable[[Path], None]) -> None:
    before = _again()
    change(tree)
    assert _again() != before


def test_where_a_file_ends_counts(tree: Path) -> None:
    """Two files never look like one that holds the other's name and content."""
    first, second = tree / "strategies" / "a.py", tree / "strategies" / "a2.py"
    first.write_bytes(b"x = 1\n")
    second.write_bytes(b"y = 2\n")
    two = _again()
    second.unlink()
    for size in (b"", b"6\0"):
        first.write_bytes(b"x = 1\nstrategies/a2.py\0" + size + b"y = 2\n")
        assert _again() != two


def test_compiled_files_and_other_folders_do_not_count(tree: Path) -> None:
    before = _again()
    cache = tree / "strategies" / "__pycache__"
    cache.mkdir(exist_ok=True)
    (cache / "left_over.py").write_text("x = 1")
    (cache / "fedavg.cpython-311.pyc").write_bytes(b"\0")
    (tree / "strategies" / "notes.txt").write_text("not code")
    (tree / "commands").mkdir()
    (tree / "commands" / "run.py").write_text("not sent to nodes")
    assert _again() == before


def test_versions_are_of_the_libraries_that_matter() -> None:
    versions = library_versions()
    assert set(versions) == {
        "python", "flwr", "torch", "transformers", "peft", "safetensors", "numpy",
    }  # fmt: skip
    assert all(re.match(r"\d+\.\d+", version) for version in versions.values())


def test_a_library_that_is_not_there_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "LIBRARIES", ("no-such-library",))
    assert library_versions()["no-such-library"] == "missing"
