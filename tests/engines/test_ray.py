"""Before Ray is started and after a run on it ended badly; no Ray is needed here."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from flwr.app import Context, RecordDict
from rich.console import Console

from fl2ora.client_app.app import app as client_app
from fl2ora.engines import ray
from fl2ora.engines.in_process_grid import InProcessGrid
from fl2ora.engines.private_superlink import PrivateSuperLink
from fl2ora.engines.progress import RoundsView
from fl2ora.engines.ray import Resources, run_on_ray
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.reporting.events import JsonLines
from fl2ora.server_app.app import app as server_app
from runs import SMALL


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


class FlowerHere(SuperLink):
    """Runs the ServerApp in this process as soon as it is submitted."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, log="what Flower says")

    def __enter__(self) -> FlowerHere:
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, app: Path, settings: Path, federation: str) -> str:
        assert (app / "pyproject.toml").is_file()
        assert federation.startswith("num-supernodes=2 ")
        config = tomllib.loads(settings.read_text())
        context = Context(1, 0, {}, RecordDict(), config)
        try:
            server_app(InProcessGrid(client_app, config, 2), context)
            self._status = "finished:completed"
        except UserError:
            self._status = "finished:failed"
        return "1"

    def add_run_log(self, run_id: str) -> None: ...


@pytest.fixture
def flower_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "PrivateSuperLink", lambda paths: FlowerHere(tmp_path))


def config(tmp_path: Path, **settings: Any) -> RunConfig:
    keys = {"output-dir": str(tmp_path / "runs"), "run-name": "run", "num-clients": 2, **settings}
    return RunConfig.from_flat({**SMALL, "num-rounds": 1, **keys})


@pytest.mark.usefixtures("flower_here")
def test_a_failing_run_says_why_in_the_servers_words(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "run"
    broken = config(tmp_path, partition="dirichlet(minimum=1000)")
    words = r"(?s)^the run failed: the nodes .*2 clients with at least 1000 examples each need 2000"
    with pytest.raises(UserError, match=words):
        run_on_ray(broken, Resources(2), folder, Console(quiet=True))
    kept = [*folder.parent.rglob("*superlink.log")]
    assert [path.read_text() for path in kept] == ["what Flower says"]


@pytest.mark.usefixtures("flower_here")
def test_a_run_that_ends_well_raises_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "run"
    run_on_ray(config(tmp_path, callbacks="none"), Resources(2), folder, Console(quiet=True))
    assert (folder / "superlink.log").read_text() == "what Flower says"
