"""What a run leaves for people besides its tables: Flower's log, the adapter's card and files."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from fl2ora.experiment.errors import UserError
from fl2ora.server_app.callbacks.base import Callback
from fl2ora.server_app.run_log import LoggedRecord
from runs import run_small


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Return a run's folder and the lines it left in Flower's log."""
    lines: list[str] = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    flowers = logging.getLogger("flwr")
    flowers.addHandler(handler)
    try:
        folder = run_small(
            tmp_path_factory.mktemp("run"), clients=2, calibrator="temperature", callbacks="none"
        )
    finally:
        flowers.removeHandler(handler)
    return folder, lines


def test_flower_s_log_has_the_folder_the_rounds_and_their_metrics(
    logged: tuple[Path, list[str]],
) -> None:
    folder, lines = logged
    text = "\n".join(lines)
    assert lines[0] == f"Run directory: {folder}"
    assert lines[-1] == f"Everything is in {folder}"
    assert re.search(r"^2 clients with \d+ training images$", text, re.MULTILINE)
    for name in ("zero-shot", "round 1/2", "round 2/2", "calibrated"):
        found = rf"^ +{name}  accuracy +\d+\.\d\d %  ECE +\d+\.\d\d %"
        assert len(re.findall(found, text, re.MULTILINE)) == 1
    assert len(re.findall(r"^ +round \d/2 .*  loss \d\.\d{4}  \d+\.\d s$", text, re.MULTILINE)) == 2


def test_the_folder_has_the_same_lines_with_their_times(logged: tuple[Path, list[str]]) -> None:
    folder, lines = logged
    found = (folder / "run.log").read_text(encoding="utf-8").splitlines()
    said = [line for line in found if " INFO " in line]
    assert [line.partition(" INFO ")[2] for line in said] == lines
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ", line) for line in found)


class Chatty(Callback):
    """Warns as a plug-in of ours would, then fails."""

    def after_round(self, *_: object) -> None:
        logging.getLogger("fl2ora.somewhere").warning("look \x1b[31mhere")
        raise ZeroDivisionError("by hand")


def test_the_log_has_warnings_and_the_traceback_of_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with pytest.raises(UserError, match="by hand"):
        run_small(tmp_path, clients=2, num_rounds=1, callbacks="test_run_log:Chatty")
    text = (tmp_path / "runs" / "run" / "run.log").read_text(encoding="utf-8")
    assert " WARNING look  [31mhere\n" in text
    assert text.count("ERROR") == 1
    assert "by hand" in text.partition("ERROR")[2]
    assert "here" in capsys.readouterr().err, "it is shown as well"
    assert not [h for h in logging.getLogger("fl2ora").handlers if type(h).__name__ == "_LogFile"]


def test_a_fault_of_ours_leaves_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), LoggedRecord(tmp_path, 1) as record:
        record.log("data", problem=1 / 0)
    text = (tmp_path / "run.log").read_text(encoding="utf-8")
    assert "ERROR division by zero\nTraceback" in text
    assert "in test_a_fault_of_ours_leaves_its_traceback" in text
    with pytest.raises(UserError), LoggedRecord(tmp_path, 1):
        raise UserError("a mistake")
    assert "Traceback" not in (tmp_path / "run.log").read_text().partition("a mistake")[2]


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "run.log").mkdir()
    with LoggedRecord(tmp_path, 1) as record:
        record.log("finished")
    assert (tmp_path / "events.jsonl").is_file()


def test_the_adapter_s_card_is_filled(logged: tuple[Path, list[str]]) -> None:
    folder, _ = logged
    text = (folder / "adapter" / "README.md").read_text(encoding="utf-8")
    for words in (
        "library_name: peft\n", "# lora on embedded\n", "- method: `lora`\n",
        "- dataset: `shapes(styles='held-back', train=96, validation=16, test=64)`\n",
        "\n| zero-shot | ", "\n| 2 | ", "\n| calibrated | ", "PeftModel.from_pretrained",
    ):  # fmt: skip
        assert words in text
    assert "\n| 1 | " not in text
    assert "More Information Needed" not in text


def test_how_the_card_loads_the_adapter_is_true(
    logged: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = logged
    text = (folder / "adapter" / "README.md").read_text(encoding="utf-8")
    code = text.partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(folder)
    found: dict[str, object] = {}
    exec(code, found)
    assert "lora" in str(found["tuned"]).lower()


def test_the_card_of_a_method_without_peft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run_small(tmp_path, clients=2, method="coop(length=2)", callbacks="none", num_rounds=1)
    text = (folder / "adapter" / "README.md").read_text(encoding="utf-8")
    code = text.partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(folder)
    found: dict[str, object] = {}
    exec(code, found)
    assert isinstance(found["adapter"], dict)
    assert found["adapter"]
    assert "library_name: fl2ora\n" in text


def test_all_files_of_a_run_have_the_umask_s_mode(logged: tuple[Path, list[str]]) -> None:
    probe = logged[0].parent / "probe"
    probe.touch()
    usual = probe.stat().st_mode & 0o777
    files = [path for path in logged[0].rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"global.safetensors", "logits.safetensors", "calibrator.safetensors"} <= names
    assert {path.name: path.stat().st_mode & 0o777 for path in files} == dict.fromkeys(names, usual)
    assert not [name for name in names if name.startswith(".")]
