"""Running the app in Flower's simulation runtime, as ``flwr run`` does, but privately."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from fl2ora.engines.private_superlink import PrivateSuperLink
from fl2ora.engines.progress import RoundsView
from fl2ora.experiment.config import RunConfig, Value
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.fingerprint import ROOMS, code_root

_POLL_SECONDS = 0.3
_STATUS_SECONDS = 20.0
_ENDED = "finished"


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
        UserError: the run did not complete; the reason is in the message, Flower's log in
            ``folder/superlink.log``.
    """
    with tempfile.TemporaryDirectory(prefix="fl2ora-run-") as scratch:
        settings = Path(scratch) / "run.toml"
        settings.write_text(_toml(config.flat()), encoding="utf-8")
        app = _app_folder(Path(scratch))
        with (
            PrivateSuperLink(_python_path(config)) as superlink,
            RoundsView(folder, console, config.num_rounds) as view,
        ):
            try:
                run_id = superlink.submit(app, settings, resources.federation())
                status = _follow(superlink, run_id, view)
                view.update()
                if status != "finished:completed":
                    reason = view.failure or f"Flower says {status!r}:\n{superlink.log_tail()}"
                    raise UserError(f"the run failed: {reason}")
            finally:
                if folder.is_dir():
                    shutil.copy(superlink.log_file, folder / "superlink.log")


def _follow(superlink: PrivateSuperLink, run_id: str, view: RoundsView) -> str:
    """Show progress until Flower says the run has ended; return how."""
    asked = time.monotonic()
    while True:
        if view.update() and not view.ended:
            asked = time.monotonic()
        if view.ended or time.monotonic() - asked > _STATUS_SECONDS:
            status = superlink.status(run_id)
            asked = time.monotonic()
            if status.startswith(_ENDED):
                return status
        if not superlink.alive():
            return "superlink ended"
        time.sleep(_POLL_SECONDS)


def _toml(values: dict[str, Value]) -> str:
    """Write flat values as TOML; JSON's texts and numbers are TOML's."""
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())


def _app_folder(scratch: Path) -> Path:
    """Return a folder ``flwr run`` accepts: the checkout, or a copy of the installed rooms."""
    root = code_root()
    if (root / "pyproject.toml").exists():
        return root
    app = scratch / "fl2ora"
    for room in ROOMS:
        shutil.copytree(root / room, app / room, ignore=shutil.ignore_patterns("__pycache__"))
    (app / "fl2ora").mkdir()
    shutil.copy(root / "__init__.py", app / "fl2ora" / "__init__.py")
    shutil.copy(root / "experiment" / "app.toml", app / "pyproject.toml")
    # The bundle's whitelist names them, and Flower wants every name to match; a wheel has neither.
    (app / "README.md").write_text("# fl2ora\n", encoding="utf-8")
    (app / "LICENSE").write_text("Apache-2.0\n", encoding="utf-8")
    return app


def _python_path(config: RunConfig) -> list[str]:
    """Return this directory if a plug-in from outside the repository is named."""
    specs = (
        config.strategy, config.method, config.loss, config.dataset, config.partition,
        config.protocol, config.calibrator,
    )  # fmt: skip
    return [str(Path.cwd())] if any(":" in spec for spec in specs) else []
