"""The command line itself: help, version, exit codes, and what the system refuses."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
import typer

import fl2ora
from fl2ora.commands import app, consoles
from fl2ora.experiment.config import RunConfig, key_of
from fl2ora.experiment.errors import UserError

Call = Callable[..., int]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Call]:
    """Return a function that calls ``fl2ora`` in this process and returns its exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("COLUMNS", raising=False)
    handler, log = signal.getsignal(signal.SIGTERM), logging.getLogger("fl2ora")
    level = log.level

    def main(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["fl2ora", *arguments])
        with pytest.raises(SystemExit) as caught:
            app.main()
        return int(caught.value.code or 0)

    yield main
    signal.signal(signal.SIGTERM, handler)
    log.setLevel(level)


def test_the_version(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--version") == 0
    assert capsys.readouterr().out == f"fl2ora {fl2ora.__version__}\n"


def test_every_option_has_a_help_text_and_every_argument_stands_in_the_docstring() -> None:
    group = typer.main.get_command(app.cli)
    assert isinstance(group, click.Group)
    assert group.commands.keys() == {
        "run", "sweep", "compare", "report", "calibrate", "data", "domains", "keys", "doctor",
        "node", "predict", "pretrain", "evaluate", "export",
    }  # fmt: skip
    below = group.commands["node"]
    assert isinstance(below, click.Group)
    for command in [*group.commands.values(), *below.commands.values()]:
        assert command.help
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{command.name} {parameter.name}"
            else:
                name = parameter.make_metavar(click.Context(command)).strip("[].")
                assert name in command.help, f"{command.name} {name}"


def test_quiet_still_says_what_is_wrong(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("compare", "--quiet", "no-such-run") == 2
    assert capsys.readouterr().err.startswith("error: no-such-run")
    assert call("report", "--quiet", "no-such-run") == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_help_of_run_points_to_the_keys(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "--help") == 0
    text = capsys.readouterr().out
    assert "'fl2ora keys'" in text
    assert "FILE is a TOML file" in text
    assert "$FL2ORA_OUTPUT_DIR" in text


def test_without_a_command_there_is_help(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert call() == 2
    assert "calibrate" in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nope"], "No such option '--nope'.\nTry 'fl2ora --help'."),
        (["run", "--engine", "[/x]"], "Invalid value for '--engine': '[/x]' is not one of"),
        (["run", "--clients", "0"], "Invalid value for '--clients': 0 is not in the range x>=1."),
        (["calibrate"], "Missing argument 'RUN_DIR'."),
        (["runn"], "No such command 'runn'."),
        (["keys", "rank"], "no key has 'rank' in its name"),
    ],
)
def test_a_mistake_in_the_command_is_one_message(
    call: Call, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert call(*arguments) == 2
    found = capsys.readouterr()
    assert found.err.startswith("error: ")
    assert message in found.err
    assert "Traceback" not in found.err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("[/x] \x1b[2Jno"), "error: [/x]  [2Jno\n"),
        (UserError("word " * 60), f"error: {'word ' * 60}".rstrip() + "\n"),
        (
            OSError(28, "No space left on device", "/data/run.json"),
            "error: the system refused: [Errno 28] No space left on device: '/data/run.json'\n",
        ),
        (PermissionError(13, "Permission denied"), "error: the system refused: [Errno 13] "),
        (MemoryError(), "error: there is not enough memory for this\n"),
    ],
)
def test_what_goes_wrong_is_one_message_and_exit_code_2(
    call: Call,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    message: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("fl2ora.commands.run.read_settings", fail)
    assert call("run") == 2
    text = capsys.readouterr().err
    assert text.rstrip().startswith(message.rstrip())
    assert "Traceback" not in text
    assert call("run", "--verbose") == 2
    text = capsys.readouterr().err
    assert "Traceback" in text
    assert message.rstrip() in text


def test_a_fault_of_ours_is_not_hidden(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fl2ora.commands.run.read_settings", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        call("run")


def test_an_interrupted_command_says_so(
    call: Call, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("fl2ora.commands.run.read_settings", interrupt)
    assert call("run") == 130
    assert "interrupted" in capsys.readouterr().err


def test_the_keys_are_a_settings_file(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("keys") == 0
    text = capsys.readouterr().out
    Path("run.toml").write_text(text)
    from fl2ora.commands.settings import read_settings

    assert read_settings(Path("run.toml"), []) == RunConfig().flat()
    for name, field in RunConfig.model_fields.items():
        assert f"\n{key_of(name)} = " in text
        assert str(field.description).split()[0] in text
    assert text.startswith("## What is trained\n")
    assert text.count("\n## Machine\n") == 1


def test_keys_with_a_word(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("keys", "round", "seed") == 0
    assert capsys.readouterr().out == (
        "## How\n# rounds of federated training\nnum-rounds = 10\n"
        "# rounds in a row with too few usable updates after which the run ends; 0: no limit\n"
        "max-idle-rounds = 5\n"
        "\n## Machine\n# seed of every random stream\nseed = 0\n"
        "# seconds to wait for the replies of a round\nround-timeout = 3600.0\n"
    )


def test_help_is_shown_before_anything_large_is_imported() -> None:
    code = """
import sys
from fl2ora.commands import app
sys.argv = ["fl2ora", "--help"]
try:
    app.main()
finally:
    large = "torch transformers flwr ray pandas matplotlib numpy scipy PIL peft".split()
    assert not [name for name in large if name in sys.modules], sys.modules
"""
    root = Path(fl2ora.__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert "sweep" in done.stdout


def test_what_is_piped_is_not_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert consoles.console_for(stderr=True).width > 1000
    monkeypatch.setenv("COLUMNS", "90")
    assert consoles.console_for(stderr=False).width == 90


def test_doctor_in_a_folder_whose_name_is_markup(
    call: Call,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    odd = tmp_path / "[" / "x] \x1b[31my [red]"
    odd.mkdir(parents=True)
    monkeypatch.chdir(odd)
    assert call("doctor") in (0, 1)
    text = capsys.readouterr().out
    assert "[/x]  [31my [red]" in text
    assert "\x1b" not in text


def test_doctor_shows_problems_as_they_are(
    call: Call, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    check = {"folder": lambda: ("[/x]", "no [/y]")}
    monkeypatch.setattr("fl2ora.commands.doctor._CHECKS", check)
    assert call("doctor") == 1
    text = capsys.readouterr().out
    assert "[/x]" in text
    assert "no [/y]" in text
    assert text.endswith("1 problem found\n")


def test_a_current_folder_that_is_gone_is_told(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert call("keys") == 2
    assert capsys.readouterr().err == (
        "error: the folder you are in was taken away: change to another one\n"
    )
    monkeypatch.chdir(tmp_path)
