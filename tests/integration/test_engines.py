"""One code path: in this process and in Ray's simulation, with equal adapters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from fl2ora.engines import ray
from fl2ora.engines.private_superlink import stop
from fl2ora.engines.ray import Resources, run_on_ray
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from runs import SMALL, assert_equal_runs, events, final_adapter, run_small

pytestmark = pytest.mark.usefixtures("alone")

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = 2


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_small(tmp_path_factory.mktemp("in-process"), clients=CLIENTS)


def config(tmp_path: Path, **settings: object) -> RunConfig:
    keys = {"output-dir": str(tmp_path), "run-name": "run", "start-timeout": 600.0, **settings}
    return RunConfig.from_flat({**SMALL, "num-clients": CLIENTS, **keys})  # type: ignore[dict-item]


def test_ray_ends_with_the_same_adapter(tmp_path: Path, reference: Path) -> None:
    folder = tmp_path / "run"
    run_on_ray(config(tmp_path), Resources(CLIENTS), folder, Console(quiet=True))
    assert_equal_runs(folder, reference)
    assert (folder / "superlink.log").exists()


@pytest.mark.long
def test_a_failing_run_on_ray_says_why(tmp_path: Path) -> None:
    broken = config(tmp_path, partition="dirichlet(minimum=1000)")
    with pytest.raises(UserError, match="2 clients with at least 1000 examples each need 2000"):
        run_on_ray(broken, Resources(CLIENTS), tmp_path / "run", Console(quiet=True))


@pytest.fixture
def own_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Ray's workers find the losses of tests/support."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests/support")]))


@pytest.mark.long
@pytest.mark.usefixtures("own_losses")
def test_a_client_that_hangs_does_not_keep_a_run_on_ray_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "_END_SECONDS", 5.0)
    loss = f"broken_losses:HangsOnce(marker='{tmp_path / 'hung'}')"
    hanging = config(tmp_path, **{"loss": loss, "num-rounds": 1, "round-timeout": 60.0})
    run_on_ray(hanging, Resources(CLIENTS), tmp_path / "run", Console(quiet=True))
    assert [drop["reason"] for drop in events(tmp_path / "run", "drop")] == ["no reply in 60 s"]
    assert events(tmp_path / "run", "finished")
    assert final_adapter(tmp_path / "run")


@pytest.mark.long
@pytest.mark.usefixtures("own_losses")
def test_a_run_whose_clients_die_on_ray_fails_and_says_why(tmp_path: Path) -> None:
    loss = f"broken_losses:DiesOnce(marker='{tmp_path / 'dead'}')"
    dying = config(tmp_path, **{"loss": loss, "num-clients": 4, "num-rounds": 3})
    cores = len(psutil.Process().cpu_affinity())
    reason = failure_of(dying, Resources(4, cpus=cores), tmp_path / "run")
    # There is one worker then, and Flower does not replace it.
    assert reason.startswith("the run failed: not one update of a client was used in 3 rounds")
    assert events(tmp_path / "run", "drop")
    assert final_adapter(tmp_path / "run")


@pytest.mark.long
def test_sigterm_stops_everything_that_a_run_started(tmp_path: Path) -> None:
    """As `timeout` sends it: twice."""
    keys = {"output-dir": tmp_path, "run-name": "run", "num-rounds": 100_000, "resamples": 0}
    keys |= {"dataset": SMALL["dataset"], "partition": "iid"}
    settings = [word for key, value in keys.items() for word in ("--set", f"{key}={value}")]
    code = "from fl2ora.commands.app import main; main()"
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", code, "run", "--clients", str(CLIENTS), *settings],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: events(tmp_path / "run", "round-end") or process.poll() is not None, 400)
        assert process.poll() is None, (tmp_path / "output").read_text()
        family = psutil.Process(process.pid).children(recursive=True)
        names = " ".join(member.name() for member in family)
        assert "raylet" in names
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) != 0
        _, alive = psutil.wait_procs(family, timeout=30)
        assert not alive, alive
    finally:
        if process.poll() is None:
            stop(process)


def failure_of(settings: RunConfig, resources: Resources, folder: Path) -> str:
    """Return why a run failed, or nothing."""
    try:
        run_on_ray(settings, resources, folder, Console(quiet=True))
    except UserError as error:
        return str(error)
    return ""


def wait_until(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.5)
