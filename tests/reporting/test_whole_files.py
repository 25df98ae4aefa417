"""Files and folders that are there in full or not at all, with the modes the umask asks for."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fl2ora.experiment.errors import UserError
from fl2ora.reporting.events import JsonLines, read_lines
from fl2ora.reporting.logits import SavedLogits
from fl2ora.reporting.run_file import RunFile
from fl2ora.reporting.sweep_folder import SweepRecord
from fl2ora.reporting.whole_files import plain_file, whole_file, whole_folder, write_whole


@pytest.fixture(params=[0o022, 0o077, 0o002])
def mode(request: pytest.FixtureRequest) -> Iterator[int]:
    """Set a umask; return the mode of a file made under it."""
    before = os.umask(request.param)
    yield 0o666 & ~request.param
    os.umask(before)


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_file_has_the_umask_s_mode_whoever_writes_it(tmp_path: Path, mode: int) -> None:
    with whole_file(tmp_path / "a.safetensors") as part:
        save_file({"a": torch.zeros(2)}, part)
    write_whole(tmp_path / "b.txt", "text")
    assert _mode(tmp_path / "a.safetensors") == _mode(tmp_path / "b.txt") == mode


def test_a_folder_s_files_have_the_umask_s_mode(tmp_path: Path, mode: int) -> None:
    with whole_folder(tmp_path / "new" / "a") as part:
        (part / "deep").mkdir()
        save_file({"a": torch.zeros(2)}, part / "deep" / "a.safetensors")
    assert _mode(tmp_path / "new" / "a" / "deep" / "a.safetensors") == mode
    assert sorted(path.name for path in (tmp_path / "new").rglob("*")) == [
        "a", "a.safetensors", "deep",
    ]  # fmt: skip


def _fill_up(path: Path) -> None:
    path.write_text("half")
    raise OSError("full")


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", "before")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "inside").write_text("before")
    with pytest.raises(OSError, match="full"), whole_file(tmp_path / "a") as part:
        _fill_up(part)
    with pytest.raises(OSError, match="full"), whole_folder(tmp_path / "b") as part:
        _fill_up(part / "other")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "inside"]
    assert (tmp_path / "a").read_text() == (tmp_path / "b" / "inside").read_text() == "before"


def test_a_folder_replaces_the_one_before(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with whole_folder(tmp_path / "a") as part:
            (part / name).touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "two"]


def test_what_safetensors_cannot_write_is_a_refusal_of_the_system(tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(2)}
    with pytest.raises(OSError, match=r"a\.safetensors"), whole_file(tmp_path / "a.safetensors"):
        save_file(tensors, tmp_path / "no" / "such" / "folder")
    with pytest.raises(OSError, match="a: "), whole_folder(tmp_path / "a") as part:
        save_file(tensors, part / "no" / "such" / "folder")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_file_is_never_waited_for(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    assert plain_file(tmp_path / "a.txt").read_text() == "text"
    assert plain_file(tmp_path / "nowhere") == tmp_path / "nowhere"
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/null")):
        with pytest.raises(OSError, match="is not a file"):
            plain_file(path)
    for reader in (RunFile.read, SweepRecord.load, SavedLogits.load):
        for name in ("run.json", "sweep.json", "logits.safetensors"):
            (tmp_path / name).unlink(missing_ok=True)
            os.mkfifo(tmp_path / name)
        with pytest.raises(UserError, match="is not a file"):
            reader(tmp_path)
    os.mkfifo(tmp_path / "events.jsonl")
    with pytest.raises(OSError, match="is not a file"):
        read_lines(tmp_path / "events.jsonl")


def test_a_full_disk_names_the_file_and_leaves_what_was_there(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk; the system's own error has no name."""
    path = tmp_path / "a.txt"
    write_whole(path, "before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        for write in (lambda: write_whole(path, "x" * 1000), lambda: fill(tmp_path)):
            with pytest.raises(OSError, match=rf"File too large: '{tmp_path}"):
                write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_text() == "before"
    assert not list(tmp_path.glob(".*"))


def fill(folder: Path) -> None:
    JsonLines(folder).log("note", text="x" * 1000)
