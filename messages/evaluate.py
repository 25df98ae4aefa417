"""Measuring on the nodes: the adapter goes to a node, sums over its held-out images come back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from torch import Tensor

from fl2ora.calibration.conformal.set_sums import SetSums
from fl2ora.calibration.plausibility import check_plausible
from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.experiment.config import Value
from fl2ora.messages.adapters import KnownStart, Outgoing, decode_adapter
from fl2ora.messages.lineage import Lineage
from fl2ora.messages.own_parts import classes_text, read_classes
from fl2ora.messages.records import (
    ARRAYS,
    CALIBRATOR,
    CLIENT_RULE,
    CONFIG,
    EVALUATE,
    OWN,
    PARAMETERS,
    PARTS,
    REPLY,
    ROUND,
    SETS,
    UnusableMessageError,
    one_line,
    refuse_error,
    reply_record,
)
from fl2ora.messages.tensors import decode_tensors, encode_tensors

TEST, VALIDATION, PERSONAL = "test", "validation", "test-personal"
"""Held-out parts: a node's test images, those of its calibration images, and its test images by its
own model, the adapter with what the node keeps to itself."""


@dataclass(frozen=True)
class EvaluateTask:
    """What a node is asked to measure.

    Attributes:
        adapter: global; empty in round 0, which is zero-shot CLIP.
        round: of the run.
        parts: which held-out parts.
        calibrator: spec of a fitted post-hoc calibrator whose effect is measured, or empty.
        parameters: of that calibrator.
        rule: spec of the client half that knows the client's own model; empty: what the node keeps
            of the method is all that is its own.
        lineage: what of the node's memory counts.
        own: which parts of a node's own held-out images, by their names: the class names they are
            classified among, empty where those are the run's. Nodes leave out what they have not.
    """

    adapter: Adapter
    round: int
    parts: tuple[str, ...] = (TEST,)
    calibrator: str = ""
    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    rule: str = ""
    lineage: Lineage = field(default_factory=Lineage)
    own: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """What a node measured.

    Attributes:
        sums: of each part it was asked for.
        sets: over the sets of its test images, by a calibrator that answers with such.
    """

    sums: Mapping[str, CalibrationStats]
    sets: SetSums | None = None


def encode_evaluate(
    task: EvaluateTask, nodes: Mapping[int, str], start: KnownStart | None = None
) -> list[Message]:
    """Return one message for each node; what it holds is encoded once, but for ``start``."""
    settings: dict[str, Value] = {
        ROUND: task.round,
        CALIBRATOR: task.calibrator,
        PARTS: ",".join(task.parts),
        CLIENT_RULE: task.rule,
        **task.lineage.settings(),
    }
    if task.own:
        settings[OWN] = classes_text(dict(task.own))
    records: dict[str, ArrayRecord | MetricRecord | ConfigRecord] = {}
    if task.calibrator:
        records[PARAMETERS] = encode_tensors(task.parameters, torch.float64)
    outgoing, messages = Outgoing(task.adapter, start), []
    for node in nodes:
        arrays, said = outgoing.to(node)
        content = {ARRAYS: arrays, **records, CONFIG: ConfigRecord({**settings, **said})}
        messages.append(Message(RecordDict(content), dst_node_id=node, message_type=EVALUATE))
    return messages


def decode_evaluate(message: Message, initial: Callable[[], Adapter] | None = None) -> EvaluateTask:
    """Return what a node is asked to measure; for ``initial`` see ``decode_adapter``."""
    content = message.content
    settings = content.config_records[CONFIG]
    parameters = content.array_records.get(PARAMETERS)
    return EvaluateTask(
        decode_adapter(content, initial),
        int(settings[ROUND]),  # type: ignore[arg-type]
        tuple(str(settings.get(PARTS, TEST)).split(",")),
        str(settings.get(CALIBRATOR, "")),
        decode_tensors(parameters, PARAMETERS, torch.float64) if parameters is not None else {},
        str(settings.get(CLIENT_RULE, "")),
        Lineage.from_settings(settings),
        read_classes(settings[OWN]) if OWN in settings else {},
    )


def encode_measured(message: Message, client: str, measured: Measured) -> Message:
    """Return a node's reply: the sums of each part it was asked for, and those over sets."""
    records: dict[str, ArrayRecord | MetricRecord | ConfigRecord] = {
        part: _encode(stats) for part, stats in measured.sums.items()
    }
    if measured.sets is not None:
        records[SETS] = MetricRecord({**vars(measured.sets)})
    records[REPLY] = reply_record(client)
    return Message(RecordDict(records), reply_to=message)


def decode_measured(
    reply: Message, expected: Mapping[str, int | None], spec: StatsSpec
) -> dict[str, CalibrationStats]:
    """Return the sums of each part, decoded and checked once.

    Args:
        reply: to an evaluate message.
        expected: how many images the node said it has of each part that was asked for; None where
            it did not say.
        spec: sizes of the sums.

    Raises:
        UnusableMessageError: an error, a part is missing, or sums that cannot be those of so many
            images.
    """
    refuse_error(reply)
    found = {}
    for part, images in expected.items():
        if part not in reply.content.metric_records:
            names = one_line(sorted(map(str, reply.content)))
            raise UnusableMessageError(f"expected a record {part!r}, found {names}")
        found[part] = _decode(part, reply.content.metric_records[part], images, spec)
    return found


def decode_sets(reply: Message, images: int, num_classes: int) -> SetSums:
    """Return a node's sums over the sets of its test images, checked.

    Args:
        reply: to an evaluate message that names a calibrator with sets.
        images: how many test images the node said it has.
        num_classes: that may be in a set.

    Raises:
        UnusableMessageError: an error, no such sums, or what no such sets have.
    """
    refuse_error(reply)
    found = dict(reply.content.metric_records.get(SETS) or {})
    whole = {name: value for name, value in found.items() if type(value) is int}
    names = SetSums.__dataclass_fields__.keys()
    if found.keys() != names or whole.keys() != names:
        raise UnusableMessageError(
            f"{SETS}: expected whole numbers {one_line(sorted(names))}, found {one_line(found)}"
        )
    sums = SetSums(**whole)
    try:
        sums.check(images, num_classes)
    except ValueError as error:
        raise UnusableMessageError(f"{SETS}: {error}") from None
    return sums


def _encode(stats: CalibrationStats) -> MetricRecord:
    return MetricRecord(
        {
            name: array.ravel().tolist() if array.ndim else float(array)
            for name, array in stats.to_arrays().items()
        }
    )


def _decode(
    part: str, record: MetricRecord, images: int | None, spec: StatsSpec
) -> CalibrationStats:
    shapes = {name: shape for name, shape in spec.shapes().items() if np.prod(shape)}
    sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
    found = {name: np.size(value) for name, value in record.items()}
    if found != sizes:
        wrong = one_line(sorted({*found.items()} ^ {*sizes.items()})[:6])
        raise UnusableMessageError(f"{part}: names and lengths of its sums differ: {wrong}")
    try:
        arrays = {
            name: np.asarray(record[name], dtype=np.float64).reshape(shape)
            for name, shape in shapes.items()
        }
        stats = CalibrationStats.from_arrays(arrays, spec)
        check_plausible(stats)
    except (ValueError, OverflowError) as error:
        raise UnusableMessageError(f"{part}: {one_line(error)}") from None
    if images is not None and stats.num_examples != images:
        raise UnusableMessageError(
            f"{part}: expected the sums of {images} images, found {stats.num_examples}"
        )
    return stats
