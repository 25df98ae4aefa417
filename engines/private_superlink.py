"""A SuperLink of our own: started for one run, reached by nobody else, gone afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from fl2ora.experiment.errors import UserError

_BIN = Path(sys.executable).parent
_NAME = "private"
_START_SECONDS = 300.0  # a busy machine took more than 90
_GRACE_SECONDS = 10.0
_SUBMIT_SECONDS, _STATUS_SECONDS = 300.0, 60.0
_JSON = ("--format", "json")
_CONFIG = """[superlink]
default = "{name}"

[superlink.{name}]
address = "{address}"
{security}
"""


class PrivateSuperLink:
    """Flower's local SuperLink in simulation mode with its own home, port and working directory.

    The one that plain ``flwr run`` starts stays alive, keeps the environment and directory of
    whoever started it first, and can make Ray import another project's ClientApp.

    Args:
        python_path: folders added to the apps' import path, for plug-ins outside the repository.

    Attributes:
        address: where it can be reached, ``host:port``.
        environment: of everything that belongs to it.
        options: of the SuperLink's command.
        security: of the connection to it, as Flower's configuration says it.
    """

    options: tuple[str, ...] = ("--insecure", "--simulation")
    security = "insecure = true"

    def __init__(self, python_path: Sequence[str] = ()) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="fl2ora-flower-"))
        self.log_file = self.home / "superlink.log"
        self._port = free_port()
        self.address = f"127.0.0.1:{self._port}"
        (self.home / "config.toml").write_text(
            _CONFIG.format(name=_NAME, address=self.address, security=self.security),
            encoding="utf-8",
        )
        (self.home / "work").mkdir()
        paths = [*python_path, *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environment = {
            **os.environ,
            # The SuperLink starts further commands by name, from an unactivated environment too.
            "PATH": os.pathsep.join([str(_BIN), os.environ.get("PATH", os.defpath)]),
            "FLWR_HOME": str(self.home),
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            # A Ray of this run alone: Ray would join one that runs already, and end with it.
            "RAY_ADDRESS": "local",
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONWARNINGS": "ignore",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> PrivateSuperLink:
        """Start the SuperLink and wait until it answers.

        Raises:
            UserError: it ended or did not answer in time; its last lines are in the message.
        """
        options = [*self.options, "--host", "127.0.0.1", "--port", str(self._port)]
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                [tool("flower-superlink"), *options],
                cwd=self.home / "work",
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._await_start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop everything that was started and remove the home."""
        if self._process is not None:
            stop(self._process)
        shutil.rmtree(self.home, ignore_errors=True)

    def submit(self, app: Path, run_config: Path, federation: str = "") -> str:
        """Submit a run and return its id; ``federation`` is for simulations.

        Raises:
            UserError: Flower refused it, with Flower's words.
        """
        extra = ["--federation-config", federation] if federation else []
        command = ("run", str(app), _NAME, "--run-config", str(run_config), *extra)
        output = self._say(_SUBMIT_SECONDS, *command, *_JSON)
        answer = _last_json(output)
        if not answer.get("success"):
            raise UserError(f"Flower did not start the run: {answer.get('error-message', output)}")
        return str(answer["run-id"])

    def status(self, run_id: str) -> str:
        """Return Flower's status of a run, such as ``running`` or ``finished:completed``.

        It is ``unknown`` where Flower does not say.
        """
        answer = _last_json(self._say(_STATUS_SECONDS, "list", _NAME, "--run-id", run_id, *_JSON))
        runs = answer.get("runs") or [{}]
        return str(runs[0].get("status", "unknown"))

    def add_run_log(self, run_id: str) -> None:
        """Add what a run itself has said to ``log_file``: Flower keeps it elsewhere."""
        with self.log_file.open("a", encoding="utf-8") as log:
            log.write(self._say(_STATUS_SECONDS, "log", run_id, _NAME, "--show"))

    def alive(self) -> bool:
        """Return whether the SuperLink is still running."""
        return self._process is not None and self._process.poll() is None

    def log_tail(self, lines: int = 15) -> str:
        """Return the last lines of the log."""
        text = self.log_file.read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def _say(self, seconds: float, *arguments: str) -> str:
        """Return what a command of Flower's says, or that it said nothing in so many seconds."""
        try:
            done = subprocess.run(
                [tool("flwr"), *arguments],
                cwd=self.home / "work",
                env=self.environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired:
            return f"flwr {arguments[0]}: no answer in {seconds:g} s"
        return done.stdout or done.stderr

    def _await_start(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if not self.alive():
                raise UserError(f"Flower's SuperLink ended at once:\n{self.log_tail()}")
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self._port), timeout=1),
            ):
                return
            time.sleep(0.2)
        raise UserError(
            f"Flower's SuperLink did not start in {_START_SECONDS:g} s:\n{self.log_tail()}"
        )


def tool(name: str) -> str:
    """Return the path of the command beside this Python, else of the one on the path.

    Raises:
        UserError: there is none.
    """
    beside = _BIN / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise UserError(f"{name}: not found beside {sys.executable}; install fl2ora's dependencies")
    return found


def free_port() -> int:
    """Return a port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _last_json(output: str) -> dict[str, Any]:
    """Read the JSON object that Flower prints after whatever else it has to say."""
    start = output.find("{")
    while start >= 0:
        with contextlib.suppress(json.JSONDecodeError):
            value, _ = json.JSONDecoder().raw_decode(output[start:])
            return dict(value)
        start = output.find("{", start + 1)
    return {"success": False, "error-message": output.strip() or "no output"}


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and all its descendants, Ray's too; those that linger are killed."""
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process.pid)
        family = [*parent.children(recursive=True), parent]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.terminate()
        _, lingering = psutil.wait_procs(family, timeout=_GRACE_SECONDS)
        for member in lingering:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
    process.wait()
