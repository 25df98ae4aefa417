"""``run.json``: what a run is, and which interruptions it went on from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fl2ora.calibration as calibration  # its names are loaded when used, and torch with them
from fl2ora.experiment.config import RunConfig, Value
from fl2ora.experiment.errors import UserError, shown
from fl2ora.experiment.fingerprint import code_fingerprint, library_versions
from fl2ora.experiment.flower_table import toml_value
from fl2ora.reporting.whole_files import plain_file, write_whole

RUN_FILE = "run.json"
RESUME_FILE = "resume.toml"
_RESUME_HEAD = """\
# All settings of this run, as it goes on after an interruption with Flower's own command:
#   flwr run . --run-config {path}
# 'fl2ora run --resume' does not need this file.
"""


@dataclass(frozen=True)
class RunFile:
    """What ``run.json`` holds.

    Attributes:
        config: the fused configuration, flat.
        run_id: Flower's, of the process that works on the run, or did last.
        fingerprint: of the code.
        versions: of the libraries by name.
        resumed: for each interruption the ``run_id`` of before, the last ``round`` of it that
            counts, and where they differ from now its ``config`` keys, ``code`` and ``versions``.
    """

    config: Mapping[str, Value]
    run_id: int
    fingerprint: str
    versions: Mapping[str, str]
    resumed: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def of(cls, config: RunConfig, run_id: int) -> RunFile:
        """Describe a run of this process."""
        return cls(config.flat(), run_id, code_fingerprint(), library_versions())

    @classmethod
    def read(cls, folder: Path) -> RunFile:
        """Read a folder's.

        Raises:
            UserError: there is none, or it cannot be read.
        """
        path = folder / RUN_FILE
        try:
            found = _object(json.loads(plain_file(path).read_text(encoding="utf-8")), "a run")
            resumed = tuple(
                _object(entry, "each interruption") for entry in found.get("resumed", ())
            )
            for entry in resumed:
                entry["run_id"], entry["round"] = int(entry["run_id"]), int(entry["round"])
            versions = _object(found["versions"], "versions")
            return cls(
                _object(found["config"], "config"),
                int(found["run_id"]),
                str(found["fingerprint"]),
                {str(name): str(version) for name, version in versions.items()},
                resumed,
            )
        except FileNotFoundError:
            raise UserError(
                f"{folder}: expected the folder of a run, found no {RUN_FILE}"
            ) from None
        except KeyError as error:
            raise UserError(f"{path}: expected a run's description, {error} is missing") from None
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{path}: expected a run's description: {error}") from None

    def text(self) -> str:
        """Return it as JSON."""
        content: dict[str, object] = {
            "config": dict(self.config),
            "run_id": str(self.run_id),
            "fingerprint": self.fingerprint,
            "versions": dict(self.versions),
        }
        if self.resumed:
            content["resumed"] = [
                {**entry, "run_id": str(entry["run_id"])} for entry in self.resumed
            ]
        return json.dumps(content, indent=2) + "\n"

    def replace(self, folder: Path) -> None:
        """Put it in place of the folder's."""
        write_whole(folder / RUN_FILE, self.text())


def _object(found: object, what: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise ValueError(f"expected an object for {what}, found {shown(found)}")
    return dict(found)


def read_config(folder: Path) -> RunConfig:
    """Return the configuration of the run in a folder.

    Raises:
        UserError: the folder is no run's, or its record is damaged.
    """
    settings = RunFile.read(folder).config
    try:
        found = RunConfig.from_flat(settings)
        calibration.chosen_metrics(found.metrics)
    except ValueError as error:  # UserError is one
        raise UserError(
            f"{folder}: expected the folder of a run, with {RUN_FILE}: {error}"
        ) from None
    return found


def write_resume_file(folder: Path, config: RunConfig) -> None:
    """Write the settings with which ``flwr run`` would go on."""
    flat = config.flat() | {
        "resume": str(folder), "output-dir": str(folder.parent), "run-name": folder.name,
    }  # fmt: skip
    lines = [f"{key} = {toml_value(value)}\n" for key, value in flat.items()]
    head = _RESUME_HEAD.format(path=folder / RESUME_FILE)
    write_whole(folder / RESUME_FILE, head + "".join(lines))
