"""Three of ten replies of every round are bad, in every way there is: the run hardly notices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.engines.in_process_grid import InProcessGrid
from fl2ora.experiment.errors import UserError
from fl2ora.reporting.events import read_lines
from misbehaving import Wrapped
from runs import events, final_adapter, run_small

CLIENTS, BAD, ROUNDS = 10, 3, 5
Change = Callable[[RecordDict], object]
MISSING, DOUBLED, LATE = "missing", "doubled", "late"


def arrays(change: Callable[[Adapter], Adapter]) -> Change:
    def alter(content: RecordDict) -> None:
        content["arrays"] = ArrayRecord(
            change(content.array_records["arrays"].to_torch_state_dict())
        )

    return alter


def first(change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    """Change one tensor alone."""

    def alter(tensors: Adapter) -> Adapter:
        name = next(iter(tensors))
        return {**tensors, name: change(tensors[name])}

    return arrays(alter)


def counts(value: float) -> Change:
    return lambda content: content.metric_records["metrics"].update({"num-examples": value})


def sums(name: str, value: Callable[[list[float]], list[float]]) -> Change:
    """Change one sum of the held-out images."""

    def alter(content: RecordDict) -> None:
        record = content.metric_records["test"]
        record[name] = value(list(record[name]))  # type: ignore[arg-type]

    return alter


def raises(content: RecordDict) -> None:
    raise RuntimeError("out of memory")


TRAINING: list[tuple[str | Change, str]] = [
    (MISSING, "no reply in 0.2 s"),
    (DOUBLED, "a second reply"),
    (LATE, "no reply in 0.2 s"),
    (raises, "RuntimeError: out of memory"),
    (first(lambda t: t * float("nan")), "values not finite"),
    (first(lambda t: t + float("inf")), "values not finite"),
    (arrays(lambda ts: {f"x{name}": t for name, t in ts.items()}), "missing: "),
    (first(lambda t: t[:1]), "has shape"),
    (first(lambda t: t.double()), "expected float32"),
    (first(lambda t: t.to(torch.int64)), "expected float32"),
    (first(lambda t: t + 1e6), "exceeds the limit 100"),
    (counts(1e9), "num-examples: expected "),
    (counts(-3), "num-examples: expected a whole number above 0, found -3"),
    (counts(float("nan")), "metric 'num-examples': expected a number below 2^53, found nan"),
    (lambda content: content.pop("metrics"), "expected records 'arrays' and 'metrics'"),
]
MEASURING: list[tuple[str | Change, str]] = [
    (sums("count", lambda values: [-value for value in values]), "holds NaN or negative values"),
    (sums("correct", lambda values: [value + 1 for value in values]), "no more than the examples"),
    (sums("confidence", lambda values: values[::-1]), "within the bins' edges"),
    (sums("count", lambda values: values[:-1]), "names and lengths of its sums differ"),
    (raises, "RuntimeError: out of memory"),
    (MISSING, "no reply in 0.2 s"),
    (
        lambda content: [content.pop("test"), content.update({"test": ConfigRecord({})})],
        "expected a record 'test'",
    ),
]


def fault_of(kind: str, number: int, node: int) -> tuple[str | Change, str] | None:
    """Return what a node does wrong in a round: three of ten do, in turns, and all kinds occur."""
    place = (node - 1 - BAD * number) % CLIENTS
    if place >= BAD or not number:
        return None
    kinds = TRAINING if kind == "train" else MEASURING
    return kinds[(BAD * (number - 1) + place) % len(kinds)]


def round_of(message: Message) -> int:
    return int(message.content.config_records["config"].get("server-round", 0))  # type: ignore[arg-type]


def spoil(message: Message, context: Context, reply: Message) -> Message:
    kind = message.metadata.message_type
    fault = fault_of(kind, round_of(message), context.node_id) if kind != "query.hello" else None
    if fault is not None and not isinstance(fault[0], str):
        fault[0](reply.content)
    return reply


class Lossy(InProcessGrid):
    """Loses replies, repeats them, or hands them out a round later."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.late: list[Message] = []

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        yield from self.late
        self.late = []
        wanted = set(message_ids)
        for identifier in [i for i in self._pending if i in wanted]:
            message = self._pending.pop(identifier)
            kind = message.metadata.message_type
            fault = None
            if kind != "query.hello":
                fault = fault_of(kind, round_of(message), message.metadata.dst_node_id)
            how = fault[0] if fault is not None else ""
            reply = self._run(message)
            if how == LATE:
                self.late.append(reply)
            elif how != MISSING:
                yield from [reply] * (2 if how == DOUBLED else 1)


SETTINGS: dict[str, Any] = {
    "dataset": "shapes(styles='held-back', train=320, validation=16, test=64)",
    "num_rounds": ROUNDS, "evaluate_on": "nodes", "round_timeout": 0.2, "max_update_norm": 100.0,
    "callbacks": "summary", "resamples": 0,
}  # fmt: skip


def test_all_kinds_occur() -> None:
    for kind, kinds in (("train", TRAINING), ("evaluate", MEASURING)):
        faults = [
            fault_of(kind, number, node)
            for number in range(1, ROUNDS + 1)
            for node in range(1, CLIENTS + 1)
        ]
        assert len([fault for fault in faults if fault]) == BAD * ROUNDS
        assert {id(fault) for fault in faults if fault} == {id(known) for known in kinds}


def test_every_bad_reply_is_named_and_the_result_is_that_of_good_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = run_small(tmp_path / "clean", clients=CLIENTS, **{**SETTINGS, "round_timeout": 60.0})
    monkeypatch.setattr("runs.InProcessGrid", Lossy)
    folder = run_small(tmp_path, clients=CLIENTS, client_app=Wrapped(spoil), **SETTINGS)

    found: dict[tuple[str, int, str], str] = {}
    for drop in events(folder, "drop"):
        measuring = drop["reason"].startswith("evaluation: ")
        key = ("evaluate" if measuring else "train", drop["round"], drop["client"])
        assert key not in found, "told twice"
        found[key] = drop["reason"]
    expected = {
        (kind, number, str(node - 1)): fault[1]
        for kind in ("train", "evaluate")
        for number in range(1, ROUNDS + 1)
        for node in range(1, CLIENTS + 1)
        if (fault := fault_of(kind, number, node)) is not None
    }
    assert found.keys() == expected.keys()
    assert all(words in found[key] for key, words in expected.items())
    doubled = sum(fault == DOUBLED for fault, _ in TRAINING)
    (end,) = events(folder, "finished")
    assert (end["updates"], end["asked"]) == ((CLIENTS - BAD) * ROUNDS + doubled, CLIENTS * ROUNDS)

    good, hurt = final_adapter(clean), final_adapter(folder)
    away = sum(float((hurt[name] - tensor).square().sum()) for name, tensor in good.items()) ** 0.5
    size = sum(float(tensor.square().sum()) for tensor in good.values()) ** 0.5
    assert 0 < away < 0.3 * size
    last = [
        next(
            row for row in reversed(read_lines(run / "metrics.jsonl"))
            if row["source"] == "server-test"
        )
        for run in (clean, folder)
    ]  # fmt: skip
    assert last[1]["nll"] == pytest.approx(last[0]["nll"], rel=0.1)
    assert last[1]["accuracy"] == pytest.approx(last[0]["accuracy"], abs=0.08)


def test_a_run_that_only_gets_bad_replies_gives_up_and_keeps_what_it_has(tmp_path: Path) -> None:
    def fails_from_round_2(message: Message, context: Context, reply: Message) -> Message:
        if message.metadata.message_type == "train" and round_of(message) > 1:
            raise RuntimeError("out of memory")
        return reply

    settings = {"num_rounds": 50, "max_idle_rounds": 2, "callbacks": "summary"}
    app = Wrapped(fails_from_round_2)
    with pytest.raises(
        UserError, match="ended after round 3: 2 rounds in a row had too few"
    ) as told:
        run_small(tmp_path, clients=2, client_app=app, **settings)
    folder = tmp_path / "runs" / "run"
    assert f"to go on: fl2ora run --resume {folder}" in str(told.value)
    once = run_small(tmp_path / "once", clients=2, num_rounds=1, callbacks="summary")
    kept, expected = final_adapter(folder), final_adapter(once)
    assert all(torch.equal(kept[name], tensor) for name, tensor in expected.items())
    assert (folder / "adapter").is_dir()
    assert [(e["event"], e["round"]) for e in events(folder, "gave-up")] == [("gave-up", 3)]
    resumed = run_small(
        tmp_path, clients=2, run_id=2, resume=str(folder), **{**settings, "num_rounds": 4},
        force_resume=True,
    )  # fmt: skip
    assert [event["round"] for event in events(resumed, "round-start")] == [1, 2, 3, 4]
