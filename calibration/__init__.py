"""Calibration of classifiers: metrics, additive sums of them, intervals, calibrators and losses.

Usable alone, without the rest of fl2ora: arrays in, numbers out. Everything named here is loaded
when it is first asked for.

Example:
    >>> import numpy as np
    >>> from fl2ora import calibration
    >>> p = np.array([[0.8, 0.2]] * 10)  # ten predictions of confidence 0.8
    >>> round(calibration.ece(p, np.array([0] * 6 + [1] * 4)), 4)  # six of them right
    0.2
    >>> half = calibration.CalibrationStats.from_probabilities(p[:5], np.array([0] * 5))
    >>> rest = calibration.CalibrationStats.from_probabilities(p[5:], np.array([0] + [1] * 4))
    >>> round(calibration.summarise(half + rest)["ece"], 4)  # the sums add
    0.2
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fl2ora.calibration.accumulator import CalibrationAccumulator as CalibrationAccumulator
    from fl2ora.calibration.calibrators.base import Calibrator as Calibrator
    from fl2ora.calibration.calibrators.fitting import fit as fit
    from fl2ora.calibration.comparison import CalibrationDifference as CalibrationDifference
    from fl2ora.calibration.comparison import compare_on_same_examples as compare_on_same_examples
    from fl2ora.calibration.comparison import compare_over_clients as compare_over_clients
    from fl2ora.calibration.comparison import compare_over_examples as compare_over_examples
    from fl2ora.calibration.losses.base import Loss as Loss
    from fl2ora.calibration.metrics.adaptive import adaptive_ece as adaptive_ece
    from fl2ora.calibration.metrics.adaptive import mce_equal_mass as mce_equal_mass
    from fl2ora.calibration.metrics.approximation import Approximation as Approximation
    from fl2ora.calibration.metrics.binned import average_ce as average_ce
    from fl2ora.calibration.metrics.binned import debiased_ce as debiased_ce
    from fl2ora.calibration.metrics.binned import ece as ece
    from fl2ora.calibration.metrics.binned import mce as mce
    from fl2ora.calibration.metrics.binned import mce_weighted as mce_weighted
    from fl2ora.calibration.metrics.binned import over_confidence as over_confidence
    from fl2ora.calibration.metrics.binned import overconfidence_error as overconfidence_error
    from fl2ora.calibration.metrics.binned import rmsce as rmsce
    from fl2ora.calibration.metrics.binned import under_confidence as under_confidence
    from fl2ora.calibration.metrics.classwise import classwise_ace as classwise_ace
    from fl2ora.calibration.metrics.classwise import (
        classwise_ace_by_class as classwise_ace_by_class,
    )
    from fl2ora.calibration.metrics.classwise import classwise_ece as classwise_ece
    from fl2ora.calibration.metrics.classwise import (
        classwise_ece_by_class as classwise_ece_by_class,
    )
    from fl2ora.calibration.metrics.classwise import top_label_ece as top_label_ece
    from fl2ora.calibration.metrics.classwise import (
        top_label_ece_by_class as top_label_ece_by_class,
    )
    from fl2ora.calibration.metrics.ks import ks_error as ks_error
    from fl2ora.calibration.metrics.metric import Metric as Metric
    from fl2ora.calibration.metrics.proper import brier as brier
    from fl2ora.calibration.metrics.proper import brier_parts as brier_parts
    from fl2ora.calibration.metrics.proper import brier_top1 as brier_top1
    from fl2ora.calibration.metrics.proper import nll as nll
    from fl2ora.calibration.metrics.proper import nll_from_logits as nll_from_logits
    from fl2ora.calibration.metrics.proximity import piece as piece
    from fl2ora.calibration.metrics.selective import aurc as aurc
    from fl2ora.calibration.metrics.selective import auroc as auroc
    from fl2ora.calibration.metrics.selective import coverage_at_risk as coverage_at_risk
    from fl2ora.calibration.metrics.selective import e_aurc as e_aurc
    from fl2ora.calibration.metrics.smooth import smooth_ece as smooth_ece
    from fl2ora.calibration.metrics.table import DEFAULT as DEFAULT
    from fl2ora.calibration.metrics.table import METRICS as METRICS
    from fl2ora.calibration.metrics.table import chosen_metrics as chosen_metrics
    from fl2ora.calibration.metrics.table import spec_for as spec_for
    from fl2ora.calibration.predictions import probabilities_of as probabilities_of
    from fl2ora.calibration.predictions import two_class_probabilities as two_class_probabilities
    from fl2ora.calibration.reliability import ReliabilityBins as ReliabilityBins
    from fl2ora.calibration.reliability import accuracy_band as accuracy_band
    from fl2ora.calibration.reliability import reliability_bins as reliability_bins
    from fl2ora.calibration.significance import consistency_test as consistency_test
    from fl2ora.calibration.significance import hosmer_lemeshow_test as hosmer_lemeshow_test
    from fl2ora.calibration.significance import spiegelhalter_test as spiegelhalter_test
    from fl2ora.calibration.smooth_reliability import SmoothCurve as SmoothCurve
    from fl2ora.calibration.smooth_reliability import smooth_curve as smooth_curve
    from fl2ora.calibration.stats import CalibrationStats as CalibrationStats
    from fl2ora.calibration.stats_spec import StatsSpec as StatsSpec
    from fl2ora.calibration.summaries import summarise as summarise
    from fl2ora.calibration.summaries import summarise_clients as summarise_clients
    from fl2ora.calibration.summaries import summarise_pooled as summarise_pooled
    from fl2ora.calibration.uncertainty import Interval as Interval
    from fl2ora.calibration.uncertainty import intervals_over_clients as intervals_over_clients
    from fl2ora.calibration.uncertainty import intervals_over_examples as intervals_over_examples

_NAMES: dict[str, tuple[str, ...]] = {  # by module; a test holds them against the imports above
    "accumulator": ("CalibrationAccumulator",),
    "calibrators.base": ("Calibrator",),
    "calibrators.fitting": ("fit",),
    "comparison": (
        *("CalibrationDifference", "compare_on_same_examples", "compare_over_clients"),
        "compare_over_examples",
    ),
    "losses.base": ("Loss",),
    "metrics.adaptive": ("adaptive_ece", "mce_equal_mass"),
    "metrics.approximation": ("Approximation",),
    "metrics.binned": (
        *("average_ce", "debiased_ce", "ece", "mce", "mce_weighted", "over_confidence"),
        *("overconfidence_error", "rmsce", "under_confidence"),
    ),
    "metrics.classwise": (
        *("classwise_ace", "classwise_ace_by_class", "classwise_ece", "classwise_ece_by_class"),
        *("top_label_ece", "top_label_ece_by_class"),
    ),
    "metrics.ks": ("ks_error",),
    "metrics.metric": ("Metric",),
    "metrics.proper": ("brier", "brier_parts", "brier_top1", "nll", "nll_from_logits"),
    "metrics.proximity": ("piece",),
    "metrics.selective": ("aurc", "auroc", "coverage_at_risk", "e_aurc"),
    "metrics.smooth": ("smooth_ece",),
    "metrics.table": ("DEFAULT", "METRICS", "chosen_metrics", "spec_for"),
    "predictions": ("probabilities_of", "two_class_probabilities"),
    "reliability": ("ReliabilityBins", "accuracy_band", "reliability_bins"),
    "significance": ("consistency_test", "hosmer_lemeshow_test", "spiegelhalter_test"),
    "smooth_reliability": ("SmoothCurve", "smooth_curve"),
    "stats": ("CalibrationStats",),
    "stats_spec": ("StatsSpec",),
    "summaries": ("summarise", "summarise_clients", "summarise_pooled"),
    "uncertainty": ("Interval", "intervals_over_clients", "intervals_over_examples"),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
