"""A SuperNode with a worker of ours: what is started, with what, and that nothing stays behind."""

from __future__ import annotations

import ast
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

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


def test_a_task_is_executed_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "told"

    def execute(address: str, token: str, *, insecure: bool, parent_pid: int) -> None:
        told.write_text(f"{address} {token} {insecure} {parent_pid} {os.getpid()}")
        raise SystemExit(1)

    monkeypatch.setattr(warm_worker, "run_clientapp", execute)
    warm_worker._answer("127.0.0.1:7", "secret", os.getppid())
    *said, pid = told.read_text().split()
    assert said == ["127.0.0.1:7", "secret", "True", str(os.getpid())]
    assert int(pid) != os.getpid()


def test_the_worker_imports_nothing_of_ours() -> None:
    """Else a bundle's code would be that of the installation."""
    tree = ast.parse((ROOT / "engines/warm_worker.py").read_text())
    names = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names |= {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    assert "flwr.supernode.runtime.run_clientapp" in names
    assert not [name for name in names if name.partition(".")[0] == "fl2ora"]
    assert not [name for name in warm_worker._LIBRARIES if name.partition(".")[0] == "fl2ora"]
