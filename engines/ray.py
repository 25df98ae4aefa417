"""Running the app in Flower's simulation runtime, as ``flwr run`` does, but privately."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from fl2ora.engines.private_superlink import PrivateSuperLink
from fl2ora.engines.progress import RoundsView
from fl2ora.experiment.config import RunConfig, Value
from fl2ora.experiment.errors import RunInterruptedError, UserError
from fl2ora.experiment.fingerprint import ROOMS, code_root
from fl2ora.experiment.machine import usable_cores
from fl2ora.reporting.run_file import RUN_FILE
from fl2ora.server_app.fitness import check_engine
from fl2ora.server_app.stopping import STOP_FILE, on_sigterm

_POLL_SECONDS = 0.3
_STATUS_SECONDS = 20.0
_BEGIN_SECONDS = 600.0  # for Flower to start the ServerApp, on a busy machine too
_END_SECONDS = 60.0  # for Flower to end a run that has written everything
_ENDED = "finished"
_COLOUR = re.compile(r"\x1b\[\d*m")
_ERRORS = (re.compile(r"^[\w.]*(Error|Exception)\b"), re.compile(r"^ERROR\b"))  # the better first


@dataclass(frozen=True)
class Resources:
    """What the simulation has.

    Attributes:
        clients: number of SuperNodes.
        cpus: CPUs reserved for each client at work.
        gpus: share of a GPU for each client at work; 0 hides the GPU from clients.
    """

    clients: int
    cpus: int = 1
    gpus: float = 0.0

    def check(self) -> None:
        """Refuse what this machine cannot give; Ray would wait for it without a word.

        Raises:
            UserError: says what was asked for and what there is.
        """
        cores = usable_cores()
        if self.cpus > cores:
            raise UserError(
                f"--client-cpus: expected at most {cores} on this machine, found {self.cpus}"
            )
        if not 0 <= self.gpus < math.inf:
            raise UserError(f"--client-gpus: expected a number of at least 0, found {self.gpus}")
        if self.gpus > 1 and not self.gpus.is_integer():
            raise UserError(
                f"--client-gpus: expected a share of one GPU or whole GPUs, found {self.gpus}"
            )
        if self.gpus:
            count = torch.cuda.device_count()
            if self.gpus > count:
                raise UserError(
                    f"--client-gpus: torch sees {count} CUDA devices here, found {self.gpus:g}"
                )

    def federation(self) -> str:
        """Return Flower's ``--federation-config``."""
        return (
            f"num-supernodes={self.clients} client-resources-num-cpus={self.cpus} "
            f"client-resources-num-gpus={float(self.gpus)}"
        )


def run_on_ray(config: RunConfig, resources: Resources, folder: Path, console: Console) -> None:
    """Run ``config`` to its end on a SuperLink of its own.

    Args:
        config: of the run; ``output-dir`` and ``run-name`` lead to ``folder``.
        resources: of the simulation.
        folder: the run directory the ServerApp will make.
        console: where to show progress.

    Raises:
        UserError: the machine lacks the resources, or the run did not complete; the reason is in
            the message, Flower's log in ``folder/superlink.log``.
    """
    resources.check()
    check_engine(config)
    with tempfile.TemporaryDirectory(prefix="fl2ora-run-") as scratch:
        settings = Path(scratch) / "run.toml"
        settings.write_text(_toml(config.flat()), encoding="utf-8")
        app = _app_folder(Path(scratch))
        with (
            PrivateSuperLink(_python_path(config)) as superlink,
            RoundsView(folder, console, config.num_rounds, resumed=bool(config.resume)) as view,
        ):
            try:
                with on_sigterm(lambda: _pass_on(folder)):
                    run_id = superlink.submit(app, settings, resources.federation())
                    status = _follow(superlink, run_id, view)
                view.update()
                if view.interrupted:
                    raise RunInterruptedError(view.failure or "interrupted")
                if status != "finished:completed":
                    superlink.add_run_log(run_id)
                    reason = view.failure or _reason(superlink, status)
                    raise UserError(f"the run failed: {reason}")
            finally:
                _keep_log(superlink, folder)


def _follow(superlink: PrivateSuperLink, run_id: str, view: RoundsView) -> str:
    """Show progress until the run has ended; return how, in Flower's words.

    Everything that a run writes is there when it says that it has finished. Flower goes on as long
    as a client of it computes, for ever with one that hangs, so it is waited for no longer than
    ``_END_SECONDS``.
    """
    began = asked = time.monotonic()
    started, ended = False, math.inf
    while True:
        news, now = view.update(), time.monotonic()
        started = started or news
        if news and not view.ended:
            asked = now
        if view.ended:
            ended = min(ended, now)
        if view.ended or now - asked > _STATUS_SECONDS:
            status = superlink.status(run_id)
            asked = time.monotonic()
            if status.startswith(_ENDED):
                return status
        if time.monotonic() - ended > _END_SECONDS:
            return f"{_ENDED}:completed" if view.failure is None else f"{_ENDED}:failed"
        if not started and now - began > _BEGIN_SECONDS:
            return f"no word of the run in {_BEGIN_SECONDS:g} s"
        if not superlink.alive():
            return "superlink ended"
        time.sleep(_POLL_SECONDS)


def _pass_on(folder: Path) -> None:
    """Ask the ServerApp, which is in a process of Flower's, to end after its round."""
    if not (folder / RUN_FILE).exists():  # nothing to wait for
        raise KeyboardInterrupt
    (folder / STOP_FILE).touch()


def _reason(superlink: PrivateSuperLink, status: str) -> str:
    """Return what Flower's log says of a run that failed before it could speak for itself."""
    text = _COLOUR.sub("", superlink.log_tail(2000))
    lines = [line for line in text.splitlines() if "[uvicorn." not in line]
    for kind in _ERRORS:
        if errors := [n for n, line in enumerate(lines) if kind.search(line)]:
            lines = lines[errors[-1] :][:15]
            break
    return "\n".join([f"Flower says {status!r}:", *lines[-15:]])


def _keep_log(superlink: PrivateSuperLink, folder: Path) -> None:
    """Keep Flower's log in the run directory, or beside it where the run never made one."""
    target = folder if folder.is_dir() else folder.parent
    name = "superlink.log" if target == folder else f"{folder.name}-superlink.log"
    with contextlib.suppress(OSError):  # a full disk has been the reason, which must not be hidden
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(superlink.log_file, target / name)


def _toml(values: dict[str, Value]) -> str:
    """Write flat values as TOML; JSON's texts and numbers are TOML's."""
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())


def _app_folder(scratch: Path) -> Path:
    """Return a copy of the rooms that ``flwr run`` accepts.

    In a checkout it would look at every file there is, of environments and runs too.
    """
    root, app = code_root(), scratch / "fl2ora"
    checkout = (root / "pyproject.toml").exists()
    package = root / "fl2ora" if checkout else root
    settings = root / "pyproject.toml" if checkout else root / "experiment" / "app.toml"
    for room in ROOMS:
        shutil.copytree(root / room, app / room, ignore=shutil.ignore_patterns("__pycache__"))
    (app / "fl2ora").mkdir()
    shutil.copy(package / "__init__.py", app / "fl2ora" / "__init__.py")
    shutil.copy(settings, app / "pyproject.toml")
    # The bundle's whitelist names them, and Flower wants every name to match; a wheel has neither.
    (app / "README.md").write_text("# fl2ora\n", encoding="utf-8")
    (app / "LICENSE").write_text("Apache-2.0\n", encoding="utf-8")
    return app


def _python_path(config: RunConfig) -> list[str]:
    """Return this directory if a plug-in from outside the repository is named."""
    specs = (
        config.strategy, config.method, config.loss, config.dataset, config.partition,
        config.protocol, config.calibrator, config.callbacks, config.optimiser, config.schedule,
    )  # fmt: skip
    return [str(Path.cwd())] if any(":" in spec for spec in specs) else []
