"""The folder a run leaves behind."""

from __future__ import annotations

import json
import os
from pathlib import Path

from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.fingerprint import code_fingerprint, library_versions
from fl2ora.experiment.paths import user_path

OUTPUT_VARIABLE = "FL2ORA_OUTPUT_DIR"


def runs_root(output_dir: str) -> Path:
    """Return the absolute folder for runs: the run config's, else the environment's, else home's.

    Flower runs the ServerApp in a working directory of its own, so a relative path is refused
    rather than resolved against that.

    Raises:
        UserError: the path is relative, or none at all.
    """
    text = output_dir or os.environ.get(OUTPUT_VARIABLE, "") or "~/fl2ora-runs"
    try:
        path = user_path(text)
    except UserError as error:
        raise UserError(f"output-dir: {error}") from None
    if not path.is_absolute():
        raise UserError(f"output-dir: expected an absolute path, found {text!r}")
    return path


def create_run_directory(config: RunConfig, run_id: int) -> Path:
    """Create ``<output-dir>/<run-name or run id>`` and write down what the run is.

    ``run.json`` holds the fused config, library versions, the code's fingerprint and the run id.

    Raises:
        UserError: the folder exists and is not empty, or cannot be made.
    """
    folder = runs_root(config.output_dir) / (config.run_name or str(run_id))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UserError(f"run-name: {folder} exists already and is not empty")
        description = {
            "config": config.flat(),
            "run_id": str(run_id),
            "fingerprint": code_fingerprint(),
            "versions": library_versions(),
        }
        (folder / "run.json").write_text(json.dumps(description, indent=2) + "\n", "utf-8")
    except OSError as error:
        raise UserError(f"output-dir: cannot write to {folder}: {error}") from error
    return folder
