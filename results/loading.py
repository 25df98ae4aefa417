"""From a folder to what was trained there: a run's, or an adapter's that stands alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from fl2ora.calibration.calibrators.base import Calibrator
from fl2ora.calibration.calibrators.files import DESCRIPTION, FittedCalibrator
from fl2ora.clip_tuning.build import build_classifier, resolve_device
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.saved_classifier import FILE, SavedClassifier
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.experiment.plugins import load
from fl2ora.experiment.texts import check_device
from fl2ora.reporting.model_card import ADAPTER
from fl2ora.reporting.run_file import RUN_FILE, read_config
from fl2ora.reporting.saved_calibrators import fitted_specs, load_fitted, read_fitted
from fl2ora.results.predictor import Predictor

CALIBRATOR = "calibrator"
"""Folder of the fitted calibrator beside an exported adapter."""
HERE = "."
"""Model of an adapter that lies in the model's own folder."""
NONE = "none"


@dataclass(frozen=True)
class Source:
    """Where a classifier comes from.

    Attributes:
        adapter: folder with the adapter and ``classifier.json``.
        run: folder of the run; None for an adapter that stands alone.
        config: of the run; None likewise.
        saved: what the adapter belongs to.
    """

    adapter: Path
    run: Path | None
    config: RunConfig | None
    saved: SavedClassifier

    def calibrator(self, wanted: str | None = None) -> FittedCalibrator | None:
        """Return the fitted calibrator to use.

        Args:
            wanted: its spec, or ``none``. None: the one the run was to have; else the only one that
                ``fl2ora calibrate`` fitted to it since, if there is one.

        Raises:
            UserError: it was not fitted or is damaged, or there are several to choose from.
        """
        if wanted == NONE:
            return None
        if self.run is None or self.config is None:
            return self._beside(wanted)
        found = list(fitted_specs(self.run))
        own = self.config.calibrator
        if wanted is None:
            if own == NONE and len(found) > 1:
                raise UserError(
                    f"{self.run}: several calibrators were fitted to this run: expected the "
                    f"calibrator to be one of {', '.join(found)}, or none"
                )
            wanted = own if own != NONE else next(iter(found), NONE)
        if wanted == NONE:
            return None
        if wanted not in found:
            raise UserError(
                f"{self.run}: expected the fitted calibrator {wanted!r}, found "
                f"{', '.join(found) or 'none'}; 'fl2ora calibrate {self.run} --calibrator ...' "
                "fits one"
            )
        return load_fitted(self.run, wanted, partial(load, base=Calibrator))

    def predictor(self, device: str = "auto", calibrator: str | None = None) -> Predictor:
        """Return the classifier with its adapter and calibrator.

        Args:
            device: as the key of that name.
            calibrator: see ``calibrator``.

        Raises:
            UserError: something is missing, damaged, or does not fit the rest.
        """
        try:
            check_device(device)
        except UserError as error:
            raise UserError(f"device: {error}") from None
        fitted = self.calibrator(calibrator)
        place, saved = resolve_device(device), self.saved

        def zero_shot() -> ClipClassifier:
            return build_classifier(
                saved.model, "zero_shot", saved.class_names, saved.templates, saved.seed
            ).to(place)

        return Predictor(saved.build(self.adapter, place), fitted, zero_shot)

    def _beside(self, wanted: str | None) -> FittedCalibrator | None:
        """Return the calibrator that was exported with an adapter; only ones of this package."""
        folder = self.adapter / CALIBRATOR
        fitted = read_fitted(folder) if (folder / DESCRIPTION).exists() else None
        if wanted is not None and (fitted is None or fitted.spec != wanted):
            found = "none" if fitted is None else repr(fitted.spec)
            raise UserError(f"{folder}: expected the fitted calibrator {wanted!r}, found {found}")
        return fitted


def source_at(path: Path) -> Source:
    """Return what is in a folder: a run, the ``adapter`` of one, or an adapter that stands alone.

    Raises:
        UserError: neither, or a file of it is damaged.
    """
    if (path / RUN_FILE).exists():
        config = read_config(path)
        if not (path / ADAPTER / FILE).exists():
            raise UserError(
                f"{path}: expected a run that has ended, with {ADAPTER}/{FILE}, found none"
            )
        return Source(path / ADAPTER, path, config, SavedClassifier.load(path / ADAPTER))
    if not (path / FILE).exists():
        raise UserError(
            f"{path}: expected the folder of a run, with {RUN_FILE}, or of an adapter, with {FILE}"
        )
    absolute = path.absolute()
    if absolute.name == ADAPTER and (absolute.parent / RUN_FILE).exists():
        return source_at(path.parent if path.parent != path else absolute.parent)
    saved = SavedClassifier.load(path)
    if not saved.is_ours:
        raise UserError(
            f"{path / FILE}: method: expected one of fl2ora's own in an adapter without its run, "
            f"found {saved.method!r}"
        )
    if saved.model == HERE:
        saved = replace(saved, model=str(absolute))
    return Source(path, None, None, saved)
