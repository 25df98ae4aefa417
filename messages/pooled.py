"""Calibration statistics as records: sums on the way to the server, added there, never averaged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from flwr.app import Message, MetricRecord

from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.calibration.summary import summarise
from fl2ora.messages.records import EXAMPLES, METRICS

_SPEC = ("num-bins", "num-classes", "fine-bins", "classwise")


def encode_stats(stats: CalibrationStats) -> MetricRecord:
    """Return one MetricRecord with the sizes and all sums, ready to be added elsewhere."""
    spec = stats.spec
    sizes = (spec.num_bins, spec.num_classes, spec.fine_bins, int(spec.classwise))
    sums = {
        name: array.ravel().tolist() if array.ndim else float(array)
        for name, array in stats.to_arrays().items()
    }
    return MetricRecord(
        {**dict(zip(_SPEC, sizes, strict=True)), EXAMPLES: stats.num_examples, **sums}
    )


def decode_stats(record: Mapping[str, int | float | list[int] | list[float]]) -> CalibrationStats:
    """Return what ``encode_stats`` encoded.

    Raises:
        ValueError: sums are missing, unexpected, of another size, negative or NaN.
    """
    if any(name not in record for name in _SPEC):
        raise ValueError(
            f"calibration statistics: expected the sizes {_SPEC}, found {sorted(record)}"
        )
    bins, classes, fine, classwise = (int(np.asarray(record[name]).item()) for name in _SPEC)
    spec = StatsSpec(bins, classes, fine, bool(classwise))
    shapes = spec.shapes()
    arrays = {
        name: _shaped(np.asarray(value, dtype=np.float64), shapes.get(name))
        for name, value in record.items()
        if name not in (*_SPEC, EXAMPLES)
    }
    return CalibrationStats.from_arrays(arrays, spec)


def stats_of(message: Message, record: str = METRICS) -> CalibrationStats:
    """Return the statistics in one record of an evaluate reply.

    Raises:
        ValueError: the reply is an error or holds no sound statistics.
    """
    if message.has_error():
        raise ValueError((message.error.reason or "unknown error").strip().splitlines()[-1])
    if record not in message.content.metric_records:
        raise ValueError(f"expected a record {record!r}, found {sorted(message.content)}")
    return decode_stats(message.content.metric_records[record])


def pooled_metrics(replies: Iterable[Message]) -> MetricRecord | None:
    """Return the metrics of the federation's pooled data, None where no node answered soundly."""
    total: CalibrationStats | None = None
    for message in replies:
        try:
            stats = stats_of(message)
        except ValueError:
            continue
        total = stats if total is None else total + stats
    return None if total is None else MetricRecord(dict(summarise(total)))


def _shaped(array: np.ndarray, shape: tuple[int, ...] | None) -> np.ndarray:
    return array.reshape(shape) if shape and array.size == np.prod(shape) else array
