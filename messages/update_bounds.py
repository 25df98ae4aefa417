"""What the numbers beside a client's tensors, and the tensors' sizes, may be."""

from __future__ import annotations

import math
from collections.abc import Mapping

from flwr.app import ArrayRecord, MetricRecord
from torch import Tensor

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.messages.records import AUX, EXAMPLES, UnusableMessageError, one_line
from fl2ora.strategies.updates import RESERVED_METRICS

_MOST_METRICS = 1000
_MOST_AUX = 16  # times the bytes of the adapter that was sent
_SMALL_AUX = 2**20  # bytes that any reply may add


def finite_metrics(record: MetricRecord) -> dict[str, float]:
    """Return finite scalars; NaN stands for a metric the node withholds and is left out."""
    if len(record) > _MOST_METRICS:
        raise UnusableMessageError(f"expected at most {_MOST_METRICS} metrics, found {len(record)}")
    found = {}
    for name, value in record.items():
        if name in RESERVED_METRICS or one_line(name) != name:
            raise UnusableMessageError(f"metric {one_line(name)!r}: the name cannot be used")
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise UnusableMessageError(
                f"metric {name!r}: expected one number, found {type(value).__name__}"
            )
        if isinstance(value, float) and math.isnan(value) and name != EXAMPLES:
            continue
        if not abs(value) < 2.0**53:
            raise UnusableMessageError(
                f"metric {name!r}: expected a number below 2^53, found {value!s:.40}"
            )
        found[name] = float(value)
    return found


def refuse_large(aux: ArrayRecord, sent: Mapping[str, Tensor]) -> None:
    """Refuse auxiliary tensors that would fill the server's memory, before they are decoded."""
    found = sum(len(name.encode(errors="replace")) + len(array.data) for name, array in aux.items())
    most = _SMALL_AUX + _MOST_AUX * sum(tensor.nbytes for tensor in sent.values())
    if found > most:
        raise UnusableMessageError(f"{AUX}: expected at most {most} bytes, found {found}")


def refuse_far(adapter: Adapter, sent: Mapping[str, Tensor], limit: float) -> None:
    """Refuse a change whose L2 norm, over all tensors, exceeds a limit."""
    if limit == math.inf:
        return
    squares = [
        float((tensor.double() - sent[name].double()).square().sum())
        for name, tensor in adapter.items()
    ]
    norm = math.sqrt(math.fsum(squares))
    if not norm <= limit:
        raise UnusableMessageError(
            f"update: norm {norm:.6g} of its change exceeds the limit {limit:.6g}"
        )
