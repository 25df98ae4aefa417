"""Fitting a post-hoc calibrator: its parameters go to a node, the node's statistics come back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from torch import Tensor

from fl2ora.clip_tuning.adapter import Adapter, AdapterError, check_finite, check_like
from fl2ora.messages.adapters import KnownStart, Outgoing, decode_adapter
from fl2ora.messages.records import (
    ARRAYS,
    CALIBRATE,
    CALIBRATOR,
    CONFIG,
    PARAMETERS,
    REPLY,
    SUMS,
    UnusableMessageError,
    one_line,
    refuse_error,
    reply_record,
)
from fl2ora.messages.tensors import decode_tensors, encode_tensors

_LARGEST = 1e100  # whose square is a number still
_OF_COUNT = {"correct", "confidence"}
_SLACK = 1 + 1e-6  # a sum of confidences of 1, rounded


@dataclass(frozen=True)
class CalibrateTask:
    """What a node is asked to sum over its calibration images.

    Attributes:
        adapter: global, after the last round.
        calibrator: spec.
        parameters: where the fit stands.
    """

    adapter: Adapter
    calibrator: str
    parameters: Mapping[str, Tensor]


def encode_calibrate(
    task: CalibrateTask, nodes: Mapping[int, str], start: KnownStart | None = None
) -> list[Message]:
    """Return one message for each node; what it holds is encoded once, but for ``start``."""
    outgoing = Outgoing(task.adapter, start)
    parameters = encode_tensors(task.parameters, torch.float64)
    messages = []
    for node in nodes:
        arrays, said = outgoing.to(node)
        settings = ConfigRecord({CALIBRATOR: task.calibrator, **said})
        content = RecordDict({ARRAYS: arrays, PARAMETERS: parameters, CONFIG: settings})
        messages.append(Message(content, dst_node_id=node, message_type=CALIBRATE))
    return messages


def decode_calibrate(
    message: Message, initial: Callable[[], Adapter] | None = None
) -> CalibrateTask:
    """Return what a node is asked to sum; for ``initial`` see ``decode_adapter``."""
    content = message.content
    return CalibrateTask(
        decode_adapter(content, initial),
        str(content.config_records[CONFIG][CALIBRATOR]),
        decode_tensors(content.array_records[PARAMETERS], PARAMETERS, torch.float64),
    )


def encode_sums(message: Message, client: str, sums: Mapping[str, Tensor]) -> Message:
    """Return a node's reply."""
    records: dict[str, ArrayRecord | MetricRecord | ConfigRecord] = {
        SUMS: encode_tensors(sums, torch.float64),
        REPLY: reply_record(client),
    }
    return Message(RecordDict(records), reply_to=message)


def decode_sums(
    reply: Message,
    expected: Mapping[str, Tensor],
    images: int | None = None,
    refusal: Callable[[dict[str, Tensor]], str] | None = None,
) -> dict[str, Tensor]:
    """Return a node's statistics, decoded and checked once.

    Args:
        reply: to a calibrate message.
        expected: statistics of no images: the right names and shapes.
        images: how many calibration images the node said it has; None where it did not say.
        refusal: returns why no images have such sums, or nothing.

    Raises:
        UnusableMessageError: an error, other names or shapes, values that are not finite, or sums
            that cannot be those of so many images.
    """
    refuse_error(reply)
    record = reply.content.array_records.get(SUMS)
    if record is None:
        found = one_line(sorted(map(str, reply.content)))
        raise UnusableMessageError(f"expected a record {SUMS!r}, found {found}")
    sums = decode_tensors(record, SUMS, torch.float64)
    try:
        check_like(sums, expected, SUMS)
        check_finite(sums, SUMS)
    except AdapterError as error:
        raise UnusableMessageError(one_line(error)) from None
    _refuse_impossible(sums, images)
    reason = refusal(sums) if refusal is not None else ""
    if reason:
        raise UnusableMessageError(f"{SUMS}: {reason}")
    return sums


def _refuse_impossible(sums: Mapping[str, Tensor], images: int | None) -> None:
    """Check ``count``, which every answer holds, and what calibrators sum by bin beside it."""
    for name, value in sums.items():
        if value.numel() and not float(value.abs().max()) < _LARGEST:
            raise UnusableMessageError(f"{SUMS}: {name}: expected numbers below {_LARGEST:g}")
    count = sums.get("count")
    if count is None:
        return
    if bool(((count < 0) | (count != count.round())).any()):
        raise UnusableMessageError(f"{SUMS}: count: expected whole numbers of at least 0")
    if images is not None and float(count.sum()) != images:
        raise UnusableMessageError(
            f"{SUMS}: count: expected {images} images, found {float(count.sum()):.0f}"
        )
    for name in _OF_COUNT & sums.keys():
        part = sums[name]
        if part.shape == count.shape and bool(((part < 0) | (part > count * _SLACK)).any()):
            raise UnusableMessageError(f"{SUMS}: {name}: expected between 0 and count")
