"""The fitted calibrators in a run's folder, found by what builds them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from fl2ora.calibration.calibrators.base import Calibrator
from fl2ora.calibration.calibrators.files import (
    DESCRIPTION,
    FittedCalibrator,
    build_calibrator,
    load_calibrator,
)
from fl2ora.experiment.errors import UserError

CALIBRATORS = "calibrators"


def spec_in(path: Path) -> str | None:
    """Return the spec of the calibrator in a folder; None where it cannot be read."""
    try:
        found = json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))
        return str(found["spec"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def fitted_specs(run: Path) -> dict[str, Path]:
    """Return the folders of a run's fitted calibrators by their specs, sorted by folder."""
    folders = sorted((run / CALIBRATORS).glob("*/"))
    return {spec: path for path in folders if (spec := spec_in(path)) is not None}


def load_fitted(
    run: Path, spec: str, build: Callable[[str], Calibrator] = build_calibrator
) -> FittedCalibrator:
    """Return a run's fitted calibrator.

    Args:
        run: its folder.
        spec: of the calibrator, as it was fitted.
        build: turns the spec into the calibrator; see ``load_calibrator``.

    Raises:
        UserError: it was not fitted, or what was saved of it is damaged.
    """
    path = fitted_specs(run).get(spec)
    if path is None:
        raise UserError(f"{run / CALIBRATORS}: expected the fitted calibrator {spec!r}, found none")
    return read_fitted(path, build)


def read_fitted(
    folder: Path, build: Callable[[str], Calibrator] = build_calibrator
) -> FittedCalibrator:
    """Return the fitted calibrator in a folder; see ``load_fitted``."""
    try:
        return load_calibrator(folder, build)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(str(error)) from None
