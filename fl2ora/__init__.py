"""Calibrated federated fine-tuning of CLIP, as a Flower app.

The rooms of the project (``strategies``, ``calibration``, ...) are this package's sub-packages:
``fl2ora.calibration``. In a checkout they lie beside this folder, at the root of the repository.
What most programs need of them can be had from here, and is loaded when it is first asked for:

    import fl2ora

    folder = fl2ora.run({"method": "lora(rank=4)", "num-rounds": 5}, clients=10)
    classifier = fl2ora.load_run(folder).classifier()

    class Mine(fl2ora.Strategy): ...

Metrics and statistics of calibration that work alone are in ``fl2ora.calibration``.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fl2ora.calibration.calibrators.base import Calibrator as Calibrator
    from fl2ora.calibration.losses.base import Loss as Loss
    from fl2ora.calibration.metrics.table import METRICS as METRICS
    from fl2ora.calibration.stats import CalibrationStats as CalibrationStats
    from fl2ora.calibration.summaries import summarise as summarise
    from fl2ora.client_app.training import local_train as local_train
    from fl2ora.client_app.training_plan import TrainingPlan as TrainingPlan
    from fl2ora.clip_tuning.contract import check_method as check_method
    from fl2ora.clip_tuning.methods.base import TuningMethod as TuningMethod
    from fl2ora.clip_tuning.optimisers.base import Optimiser as Optimiser
    from fl2ora.clip_tuning.schedules.base import Schedule as Schedule
    from fl2ora.engines.new_run import run as run
    from fl2ora.experiment.config import RunConfig as RunConfig
    from fl2ora.experiment.errors import UserError as UserError
    from fl2ora.federated_data.datasets.base import Dataset as Dataset
    from fl2ora.federated_data.partition.base import Partitioner as Partitioner
    from fl2ora.federated_data.protocols.base import Protocol as Protocol
    from fl2ora.results.predictor import Predictor as Predictor
    from fl2ora.results.saved_run import SavedRun as SavedRun
    from fl2ora.results.saved_run import load_run as load_run
    from fl2ora.server_app.callbacks.base import Callback as Callback
    from fl2ora.server_app.ours_under_flower import OursUnderFlower as OursUnderFlower
    from fl2ora.strategies.base import RoundPlan as RoundPlan
    from fl2ora.strategies.base import RunInfo as RunInfo
    from fl2ora.strategies.base import Strategy as Strategy
    from fl2ora.strategies.client_rule import ClientRule as ClientRule
    from fl2ora.strategies.contract import check_strategy as check_strategy
    from fl2ora.strategies.updates import ClientUpdate as ClientUpdate
    from fl2ora.strategies.updates import WeightedMean as WeightedMean

    __version__: str

# Symbolic links beside this file lead to the rooms, but a Flower bundle leaves links out.
_ROOT = Path(__file__).resolve().parent.parent
if (_ROOT / "client_app").is_dir() and (_ROOT / "server_app").is_dir():
    __path__.append(str(_ROOT))

_NAMES: dict[str, tuple[str, ...]] = {  # by module; a test holds them against the imports above
    "calibration.calibrators.base": ("Calibrator",),
    "calibration.losses.base": ("Loss",),
    "calibration.metrics.table": ("METRICS",),
    "calibration.stats": ("CalibrationStats",),
    "calibration.summaries": ("summarise",),
    "client_app.training": ("local_train",),
    "client_app.training_plan": ("TrainingPlan",),
    "clip_tuning.contract": ("check_method",),
    "clip_tuning.methods.base": ("TuningMethod",),
    "clip_tuning.optimisers.base": ("Optimiser",),
    "clip_tuning.schedules.base": ("Schedule",),
    "engines.new_run": ("run",),
    "experiment.config": ("RunConfig",),
    "experiment.errors": ("UserError",),
    "federated_data.datasets.base": ("Dataset",),
    "federated_data.partition.base": ("Partitioner",),
    "federated_data.protocols.base": ("Protocol",),
    "results.predictor": ("Predictor",),
    "results.saved_run": ("SavedRun", "load_run"),
    "server_app.callbacks.base": ("Callback",),
    "server_app.ours_under_flower": ("OursUnderFlower",),
    "strategies.base": ("RoundPlan", "RunInfo", "Strategy"),
    "strategies.client_rule": ("ClientRule",),
    "strategies.contract": ("check_strategy",),
    "strategies.updates": ("ClientUpdate", "WeightedMean"),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    value: Any
    if name == "__version__":
        value = _version()
    elif name in _HOMES:
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    """Return the version in the pyproject.toml of a checkout or a bundle, else the installed one.

    A checkout comes first: another version may be installed beside it. Where there is none, what
    stands in its place is nobody's business here: no file, or one of another project.
    """
    import tomllib
    from contextlib import suppress
    from importlib.metadata import PackageNotFoundError, version

    with suppress(OSError, KeyError, ValueError):
        project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        if project["name"] == __name__:
            return str(project["version"])
    try:
        return version(__name__)
    except PackageNotFoundError:
        return "unknown"
