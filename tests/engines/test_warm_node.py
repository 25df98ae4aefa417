"""A SuperNode with a worker of ours: what is started, with what, and that nothing stays behind."""

from __future__ import annotations

import ast
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from fl2ora.engines import warm_node, warm_worker
from fl2ora.engines.warm_node import run_warm_node, runtime_address
from fl2ora.experiment.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("options", "address"),
    [
        ([], "127.0.0.1:9094"),
        (["--superlink", "a:1", "--port", "7", "--insecure"], "127.0.0.1:7"),
        (["--port=7", "--host=::1"], "[::1]:7"),
    ],
)
def test_the_worker_asks_where_the_supernode_listens(options: list[str], address: str) -> None:
    assert runtime_address(options) == address


@pytest.mark.parametrize("option", ["--isolation=subprocess", "--isolation", "--ssl-keyfile=k"])
def test_what_the_worker_cannot_do_with_is_refused(option: str) -> None:
    with pytest.raises(UserError, match=r"^--[a-z-]+: fl2ora node run has a worker of its own"):
        run_warm_node([option, "subprocess"])


class Started:
    """Stands for the worker: sleepers, the first of which ends at once."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self.processes: list[subprocess.Popen[bytes]] = []

    def __call__(self, address: str) -> subprocess.Popen[bytes]:
        code = "pass" if not self.processes else "import time; time.sleep(100)"
        self.addresses.append(address)
        self.processes.append(subprocess.Popen([sys.executable, "-c", code]))
        return self.processes[-1]


def supernode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str) -> Started:
    """Put a script in the SuperNode's place, which notes its arguments."""
    script, started = tmp_path / "flower-supernode", Started()
    script.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\n{then}\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(warm_node, "tool", lambda name: str(tmp_path / name))
    monkeypatch.setattr(warm_node, "_start_worker", started)
    return started


def test_it_ends_with_the_supernodes_code_and_a_worker_that_died_was_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = supernode(tmp_path, monkeypatch, "sleep 1.5; exit 3")
    assert run_warm_node(["--port", "7", "--node-config", "site='a b'"]) == 3
    said = (tmp_path / "arguments").read_text()
    assert said == "--isolation process --port 7 --node-config site='a b'\n"
    assert started.addresses == ["127.0.0.1:7"] * 2
    assert all(process.poll() is not None for process in started.processes)


def test_stopped_it_leaves_nobody_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys, time; time.sleep(100); sys.exit(3)"
    started = supernode(tmp_path, monkeypatch, f"exec {sys.executable} -c '{code}'")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        assert run_warm_node([]) == 0
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)
    assert all(process.poll() is not None for process in started.processes)


class NotedTask:
    """Stands for a task: notes which process executes it, and what app it was given."""

    notes = Path()

    def __init__(self, address: str, token: str) -> None:
        self.address, self.token = address, token

    def execute(self, app: object) -> object:
        with self.notes.open("a") as notes:
            notes.write(f"{self.token} {os.getpid()} {app}\n")
        if self.token == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        return None if self.token == "fails" else f"app-of-{self.token}"

    def end(self) -> None:
        with self.notes.open("a") as notes:
            notes.write(f"ended {os.getpid()} {self.token}\n")


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """Serve tasks, each by its run and token; return who executed what, in order."""
    monkeypatch.setattr(warm_worker, "Task", NotedTask)
    monkeypatch.setattr(NotedTask, "notes", tmp_path / "notes")

    def serve(*tasks: tuple[int, str]) -> list[list[str]]:
        waiting, parent, asked = list(tasks), os.getppid(), iter(range(1000))
        monkeypatch.setattr(
            warm_worker, "_next_task", lambda client: waiting.pop(0) if waiting else (0, "")
        )
        # The one that started it is gone when there is nothing left to do.
        monkeypatch.setattr(warm_worker, "_gone", lambda parent: not waiting and next(asked) > 3)
        before = psutil.Process().children()
        warm_worker.serve("127.0.0.1:7", parent)
        assert psutil.Process().children() == before, "somebody is left behind"
        return [line.split() for line in NotedTask.notes.read_text().splitlines()]

    return serve


def test_one_process_answers_a_run_and_hands_its_app_on(
    served: Callable[..., list[list[str]]],
) -> None:
    (_, first, none), (_, second, app), (_, other, fresh), (_, back, again) = served(
        (1, "a"), (1, "b"), (2, "c"), (1, "d")
    )
    assert first == second
    assert len({str(os.getpid()), first, other, back}) == 4
    assert (none, app) == ("None", "app-of-a")
    assert (fresh, again) == ("None", "None")  # nothing of one run is there in another


@pytest.mark.parametrize("how", ["fails", "dies"])
def test_after_a_message_that_failed_the_next_one_has_a_fresh_process(
    served: Callable[..., list[list[str]]], how: str
) -> None:
    before, bad, after = served((1, "a"), (1, how), (1, "b"))
    assert before[1] == bad[1] != after[1]
    assert after[2] == "None"


def test_memory_is_given_back_when_no_message_comes(
    served: Callable[..., list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = served((1, "a"), (0, ""), (1, "b"))
    assert first[1] == second[1]
    NotedTask.notes.unlink()
    monkeypatch.setattr(warm_worker, "_KEEP_SECONDS", 0.0)
    first, second = served((1, "a"), (0, ""), (1, "b"))
    assert first[1] != second[1]


def test_a_task_that_is_stopped_ends_its_process_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(NotedTask):
        def execute(self, app: object) -> object:
            signal.raise_signal(signal.SIGINT)  # as Flower's heartbeat does
            return app

    monkeypatch.setattr(warm_worker, "Task", Stopped)
    monkeypatch.setattr(NotedTask, "notes", tmp_path / "notes")
    process = warm_worker.RunProcess("127.0.0.1:7", 1)
    assert not process.answer("token", os.getppid())
    assert NotedTask.notes.read_text() == f"ended {process.pid} token\n"


def test_the_worker_imports_nothing_of_ours() -> None:
    """Else a bundle's code would be that of the installation."""
    tree = ast.parse((ROOT / "engines/warm_worker.py").read_text())
    names = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names |= {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    assert "flwr.supernode.runtime.run_clientapp" in names
    assert not [name for name in names if name.partition(".")[0] == "fl2ora"]
    assert not [name for name in warm_worker._LIBRARIES if name.partition(".")[0] == "fl2ora"]
