"""Before Ray is started and after a run on it ended badly; no Ray is needed here."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from rich.console import Console

from fl2ora.engines import ray
from fl2ora.engines.private_superlink import PrivateSuperLink
from fl2ora.engines.progress import RoundsView
from fl2ora.engines.ray import Resources
from fl2ora.experiment.errors import UserError
from fl2ora.reporting.events import JsonLines


@pytest.mark.parametrize(
    ("resources", "devices", "words"),
    [
        (Resources(2, cpus=10_000), 0, r"--client-cpus: expected at most \d+ on this machine"),
        (Resources(2, gpus=0.5), 0, r"--client-gpus: torch sees 0 CUDA devices here, found 0\.5"),
        (Resources(2, gpus=2.0), 1, r"--client-gpus: torch sees 1 CUDA devices here, found 2"),
        (Resources(2, gpus=1.5), 4, "expected a share of one GPU or whole GPUs, found 1.5"),
        (Resources(2, gpus=math.nan), 1, "expected a number of at least 0, found nan"),
        (Resources(2, gpus=math.inf), 1, "expected a number of at least 0, found inf"),
        (Resources(2, gpus=-1.0), 1, "expected a number of at least 0, found -1"),
    ],
)
def test_what_the_machine_cannot_give_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, resources: Resources, devices: int, words: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    with pytest.raises(UserError, match=words):
        resources.check()


@pytest.mark.parametrize("gpus", [0.0, 0.25, 1.0, 2.0])
def test_what_the_machine_can_give_is_accepted(
    monkeypatch: pytest.MonkeyPatch, gpus: float
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    Resources(2, cpus=len(psutil.Process().cpu_affinity()), gpus=gpus).check()


class SuperLink:
    """Stands for Flower's: says what a test wants it to say."""

    def __init__(self, folder: Path, status: str = "running", log: str = "") -> None:
        self.log_file = folder / "flower.log"
        self.log_file.write_text(log)
        self._status = status
        self.asked = 0

    def status(self, run_id: str) -> str:
        self.asked += 1
        return self._status

    def alive(self) -> bool:
        return True

    log_tail = PrivateSuperLink.log_tail


def test_the_reason_is_the_last_error_of_the_log(tmp_path: Path) -> None:
    exit_code = "\x1b[91mERROR \x1b[0m:     Exit Code: 607"
    log = "\n".join(["ERROR : first", *["noise"] * 30, "ModuleNotFoundError: no x", exit_code])
    link: Any = SuperLink(tmp_path, log=log)
    reason = ray._reason(link, "finished:failed")
    assert reason.splitlines() == [
        "Flower says 'finished:failed':", "ModuleNotFoundError: no x", "ERROR :     Exit Code: 607",
    ]  # fmt: skip


def test_an_error_line_of_flowers_is_the_reason_where_no_exception_is_told(tmp_path: Path) -> None:
    lines = ["noise", "\x1b[91mERROR \x1b[0m:  no room", *["more"] * 20]
    link: Any = SuperLink(tmp_path, log="\n".join(lines))
    assert ray._reason(link, "finished:failed").splitlines()[1] == "ERROR :  no room"


def test_without_an_error_the_reason_is_the_end_of_the_log(tmp_path: Path) -> None:
    link: Any = SuperLink(tmp_path, log="\n".join(map(str, range(100))))
    assert ray._reason(link, "unknown").splitlines()[1:] == [str(n) for n in range(85, 100)]


def test_the_log_is_kept_in_the_run_folder_or_beside_it(tmp_path: Path) -> None:
    link: Any = SuperLink(tmp_path, log="what happened")
    ray._keep_log(link, tmp_path / "runs" / "mine")
    assert (tmp_path / "runs" / "mine-superlink.log").read_text() == "what happened"
    (tmp_path / "runs" / "mine").mkdir()
    ray._keep_log(link, tmp_path / "runs" / "mine")
    assert (tmp_path / "runs" / "mine" / "superlink.log").read_text() == "what happened"


def view(folder: Path) -> RoundsView:
    return RoundsView(folder, Console(quiet=True), 1)


@pytest.mark.parametrize(
    ("event", "status"), [("finished", "finished:completed"), ("failed", "finished:failed")]
)
def test_a_run_that_has_said_its_end_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, event: str, status: str
) -> None:
    monkeypatch.setattr(ray, "_END_SECONDS", 0.2)
    JsonLines(tmp_path).log(event, message="why")
    link: Any = SuperLink(tmp_path)
    assert ray._follow(link, "1", view(tmp_path)) == status
    assert link.asked


def test_a_run_that_never_begins_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "_BEGIN_SECONDS", 0.2)
    link: Any = SuperLink(tmp_path)
    assert ray._follow(link, "1", view(tmp_path)) == "no word of the run in 0.2 s"
