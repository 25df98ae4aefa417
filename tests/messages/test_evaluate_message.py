"""Sums from the nodes: they survive the way, and what no images have is a drop with a reason."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict

from fl2ora.calibration.conformal.set_sums import SetSums
from fl2ora.calibration.stats import CalibrationStats, StatsSpec
from fl2ora.messages.evaluate import (
    PERSONAL,
    TEST,
    EvaluateTask,
    Measured,
    decode_evaluate,
    decode_measured,
    decode_sets,
    encode_evaluate,
    encode_measured,
)
from fl2ora.messages.lineage import Lineage
from fl2ora.messages.records import UnusableMessageError
from fl2ora.messages.tensors import encode_tensors

SPEC = StatsSpec(num_bins=10, fine_bins=50)
N = 40


def question() -> Message:
    return Message(RecordDict(), dst_node_id=1, message_type="evaluate")


def stats(spec: StatsSpec = SPEC, seed: int = 0) -> CalibrationStats:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(N, 4, generator=generator)
    return CalibrationStats.from_logits(
        logits, torch.randint(0, 4, (N,), generator=generator), spec
    )


def measured(**parts: CalibrationStats) -> Message:
    sums = {n.replace("_", "-"): s for n, s in parts.items()}
    return encode_measured(question(), "k", Measured(sums))


def test_a_task_survives_the_way() -> None:
    task = EvaluateTask(
        {"x": torch.rand(3)},
        4,
        (TEST, PERSONAL),
        "temperature",
        {"t": torch.rand(2, dtype=torch.float64)},
        "fedsa_lora",
        Lineage(((7, 2),), (1, 2)),
    )
    messages = encode_evaluate(task, {5: "a", 6: "b"})
    assert [m.metadata.dst_node_id for m in messages] == [5, 6]
    found = decode_evaluate(messages[1])
    assert (found.round, found.parts, found.calibrator) == (4, (TEST, PERSONAL), "temperature")
    assert (found.rule, found.lineage) == (task.rule, task.lineage)
    assert torch.equal(found.adapter["x"], task.adapter["x"])
    assert torch.equal(found.parameters["t"], task.parameters["t"])


def test_what_flowers_fedadam_sends_to_measure_is_taken() -> None:
    arrays = encode_tensors({"x": torch.tensor([0.1, 0.2], dtype=torch.float64)}, torch.float64)
    content = RecordDict({"arrays": arrays, "config": ConfigRecord({"server-round": 1})})
    found = decode_evaluate(Message(content, dst_node_id=1, message_type="evaluate"))
    assert torch.equal(found.adapter["x"], torch.tensor([0.1, 0.2]))


@pytest.mark.parametrize("spec", [SPEC, StatsSpec(15), StatsSpec(5, 4, 0, classwise=True)])
def test_sums_of_every_part_survive_the_way(spec: StatsSpec) -> None:
    sums, own = stats(spec), stats(spec, seed=1)
    found = decode_measured(measured(test=sums, test_personal=own), {TEST: N, PERSONAL: N}, spec)
    for part, expected in ((TEST, sums), (PERSONAL, own)):
        arrays = found[part].to_arrays()
        assert all((arrays[name] == array).all() for name, array in expected.to_arrays().items())


def altered(**changes: Any) -> Message:
    message = measured(test=stats())
    record = message.content.metric_records["test"]
    for name, change in changes.items():
        record[name] = change(record[name])
    return message


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (lambda: measured(other=stats()), "expected a record 'test'"),
        (lambda: measured(test=stats(StatsSpec(7, fine_bins=50))), "names and lengths"),
        (lambda: measured(test=stats(StatsSpec(10, fine_bins=20))), "names and lengths"),
        (lambda: altered(correct=lambda v: [1e9] * len(v)), "no more than the examples"),
        (lambda: altered(correct=lambda v: [x * 10 for x in v]), "correct"),
        (lambda: altered(count=lambda v: [math.inf, *v[1:]]), "count: expected finite"),
        (lambda: altered(count=lambda v: [math.nan, *v[1:]]), "NaN"),
        (lambda: altered(count=lambda v: [-1.0, *v[1:]]), "negative"),
        (lambda: altered(count=lambda v: [x + 0.5 for x in v]), "count: expected whole numbers"),
        (lambda: altered(confidence=lambda v: [x * 1e6 for x in v]), "bins' edges"),
        (lambda: altered(confidence=lambda v: v[::-1]), "confidence"),
        (lambda: altered(fine_count=lambda v: [x + 1 for x in v]), "fine_"),
        (lambda: altered(brier=lambda v: v * 1e6), "brier: expected at most 80"),
        (lambda: altered(nll=lambda v: v * 1e6), "nll_squared"),
        (lambda: altered(nll=lambda v: math.inf), "nll: expected finite"),
        (lambda: Message(Error(2, "disk full"), reply_to=question()), "disk full"),
        (
            lambda: Message(RecordDict({"test": MetricRecord({})}), reply_to=question()),
            "names and lengths",
        ),
    ],
)
def test_sums_that_cannot_be_are_refused(message: Any, reason: str) -> None:
    with pytest.raises(UnusableMessageError, match=re.escape(reason)):
        decode_measured(message(), {TEST: N}, SPEC)


@pytest.mark.parametrize("said", [7, 41])
def test_sums_of_other_images_than_the_node_said_it_has_are_refused(said: int) -> None:
    with pytest.raises(UnusableMessageError, match=f"expected the sums of {said} images, found 40"):
        decode_measured(measured(test=stats()), {TEST: said}, SPEC)


def with_sets(**changes: Any) -> Message:
    sets = SetSums(N, 30, 70)
    message = encode_measured(question(), "k", Measured({TEST: stats()}, sets))
    message.content.metric_records["sets"].update(changes)
    return message


def test_sums_over_sets_survive_the_way_beside_the_others() -> None:
    reply = with_sets()
    assert decode_sets(reply, N, 4) == SetSums(N, 30, 70)
    assert decode_measured(reply, {TEST: N}, SPEC)[TEST].num_examples == N


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (lambda: measured(test=stats()), "sets: expected whole numbers"),
        (lambda: with_sets(more=3), "sets: expected whole numbers"),
        (lambda: with_sets(covered=30.0), "sets: expected whole numbers"),
        (lambda: with_sets(covered=[30]), "sets: expected whole numbers"),
        (lambda: with_sets(count=41), "count: expected 40 images, found 41"),
        (lambda: with_sets(covered=41), "covered: expected 0 to 40, found 41"),
        (lambda: with_sets(covered=-1), "covered: expected 0 to 40, found -1"),
        (lambda: with_sets(size=39), "size: expected 40 to 150, found 39"),
        (lambda: with_sets(size=151), "size: expected 40 to 150, found 151"),
        (lambda: Message(Error(2, "disk full"), reply_to=question()), "disk full"),
    ],
)
def test_sums_that_no_sets_have_are_refused(message: Any, reason: str) -> None:
    with pytest.raises(UnusableMessageError, match=re.escape(reason)):
        decode_sets(message(), N, 4)


def test_the_bounds_of_the_sums_over_sets_can_be_reached() -> None:
    assert decode_sets(with_sets(covered=0, size=40), N, 4).size == 40
    assert decode_sets(with_sets(covered=40, size=160), N, 4).size == 160
