"""What a finished run leaves behind besides its record: the adapter, and a fitted calibrator."""

from __future__ import annotations

from pathlib import Path

from fl2ora.calibration.calibrators.base import Calibrator, Parameters
from fl2ora.calibration.calibrators.files import save_calibrator
from fl2ora.clip_tuning.adapter import Adapter, save_adapter
from fl2ora.clip_tuning.classifier import ClipClassifier
from fl2ora.clip_tuning.methods.base import TuningMethod

CALIBRATORS = "calibrators"


def save_model(
    folder: Path, method: TuningMethod, classifier: ClipClassifier, adapter: Adapter
) -> None:
    """Write the global adapter as it travels, and in its method's own format."""
    save_adapter(adapter, folder / "global.safetensors")
    classifier.restore(adapter)
    method.save(classifier, folder / "adapter")


def save_fitted(
    folder: Path, spec: str, calibrator: Calibrator, parameters: Parameters, num_classes: int
) -> Path:
    """Write a fitted calibrator to ``calibrators/<name>`` and return that folder."""
    path = folder / CALIBRATORS / spec.partition("(")[0].rpartition(":")[2]

    def build(_: str) -> Calibrator:
        return calibrator

    save_calibrator(path, spec, parameters, num_classes, build)
    return path
