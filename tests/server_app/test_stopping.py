"""A run that is asked to end does so after its round, and can go on."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fl2ora.experiment.errors import RunInterruptedError, UserError
from fl2ora.reporting.run_directory import check_free
from fl2ora.server_app import stopping
from fl2ora.server_app.stopping import on_sigterm
from power_cuts import QUICK, app_with, assert_same_results, going_on, undisturbed
from runs import events, run_small


@pytest.fixture(autouse=True)
def _interrupts() -> Iterator[None]:
    """Let SIGTERM end a process by an exception, as ``fl2ora`` does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("how", ["signal", "file"])
def test_a_run_ends_after_its_round_with_a_checkpoint_and_goes_on(tmp_path: Path, how: str) -> None:
    """It is asked to in the middle of round 2, between two checkpoints that are due."""
    folder = tmp_path / "runs" / "run"

    def ask(count: int) -> None:
        if count == 4 and how == "signal":
            signal.raise_signal(signal.SIGTERM)
        elif count == 4:
            (folder / "stop").touch()

    settings = {**QUICK, "checkpoint_every": 3, "strategy": "feddyn"}
    with pytest.raises(RunInterruptedError, match=r"ended after round 2 of 4, asked to by"):
        run_small(tmp_path, client_app=app_with(ask), **settings)
    (told,) = events(folder, "interrupted")
    assert told["message"].endswith(f"to go on: fl2ora run --resume {folder}")
    assert not events(folder, "failed")
    with pytest.raises(
        UserError, match=f"an interrupted run, which --resume {folder} goes on with"
    ):
        check_free(folder)
    found = going_on(tmp_path, checkpoint_every=3, strategy="feddyn")
    assert_same_results(found, undisturbed(tmp_path, strategy="feddyn"))
    assert not (folder / "stop").exists()


def test_asked_in_the_last_round_a_run_ends_as_ever(tmp_path: Path) -> None:
    def ask(count: int) -> None:
        if count == 1:
            signal.raise_signal(signal.SIGTERM)

    folder = run_small(tmp_path, client_app=app_with(ask), **{**QUICK, "num_rounds": 1})
    assert events(folder, "finished")


def test_a_second_signal_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(stopping, "_ONE_REQUEST", 0.0)
    with on_sigterm(lambda: asked.append("once")):
        signal.raise_signal(signal.SIGTERM)
        assert asked == ["once"]
        time.sleep(0.01)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert asked == ["once"]


def test_two_signals_at_once_are_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(stopping, "_ONE_REQUEST", 600.0)  # however slow the machine
    with on_sigterm(lambda: asked.append("once")):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    assert asked == ["once"]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
