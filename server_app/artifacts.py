"""What a finished run leaves behind besides its record: the adapter, and a fitted calibrator."""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path

from fl2ora.calibration.calibrators.base import Calibrator, Parameters
from fl2ora.calibration.calibrators.files import save_calibrator
from fl2ora.clip_tuning.adapter import Adapter, save_adapter
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.methods.base import TuningMethod
from fl2ora.clip_tuning.saved_classifier import SavedClassifier
from fl2ora.experiment.blame import blaming
from fl2ora.experiment.config import RunConfig
from fl2ora.reporting.model_card import ADAPTER
from fl2ora.reporting.saved_calibrators import CALIBRATORS, spec_in
from fl2ora.reporting.whole_files import whole_file, whole_folder

_LONGEST = 80  # characters of a folder's name


def save_global(folder: Path, adapter: Adapter) -> None:
    """Write the global adapter as it travels."""
    with whole_file(folder / "global.safetensors") as part:
        save_adapter(adapter, part)


def save_exported(
    folder: Path,
    config: RunConfig,
    method: TuningMethod,
    classifier: ClipClassifier,
    adapter: Adapter,
) -> None:
    """Write the global adapter in its method's own format, and what it belongs to.

    Raises:
        UserError: the method failed to; nothing is left then.
    """
    classifier.restore(adapter)
    with blaming(method), whole_folder(folder / ADAPTER) as part:
        method.save(classifier, part)
        SavedClassifier(
            config.model, config.method, config.seed, classifier.class_names, classifier.templates
        ).save(part)


def save_fitted(
    folder: Path, spec: str, calibrator: Calibrator, parameters: Parameters, num_classes: int
) -> Path:
    """Write a fitted calibrator to a folder of its own in ``calibrators`` and return that folder.

    It is called ``temperature``, or ``histogram_binning-bins-20`` where there are arguments. A
    second fit of the same spec replaces the first; one of another spec never does.
    """
    path = _folder_of(folder / CALIBRATORS, spec)

    def build(_: str) -> Calibrator:
        return calibrator

    with whole_folder(path) as part:
        save_calibrator(part, spec, parameters, num_classes, build)
    return path


def _folder_of(parent: Path, spec: str) -> Path:
    name = re.sub(r"[^\w.]+", "-", spec.partition("(")[0].rpartition(":")[2] + _arguments(spec))
    stem = name.strip("-.")[:_LONGEST]
    for number in count(1):
        path = parent / (stem if number == 1 else f"{stem}-{number}")
        if not path.exists() or spec_in(path) == spec:
            return path
    raise AssertionError  # numbers do not end


def _arguments(spec: str) -> str:
    return "-" + spec.partition("(")[2]
