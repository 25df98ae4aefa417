"""Clients in processes of their own: the same numbers, and deaths that cost one reply each."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fl2ora.client_app.node import Node
from fl2ora.engines import client_processes, in_process
from fl2ora.engines.client_frames import answer_frames, read_answer, read_task, task_frames
from fl2ora.engines.client_processes import ClientProcesses, Task
from fl2ora.engines.in_process import run_in_process
from fl2ora.engines.in_process_grid import InProcessGrid
from fl2ora.experiment import machine
from fl2ora.experiment.config import RunConfig
from fl2ora.experiment.errors import UserError
from fl2ora.messages.train import encode_train
from fl2ora.strategies.base import RoundPlan
from runs import SMALL, assert_equal_runs, events

CLIENTS = 3
NODE = {"partition-id": 0, "num-partitions": CLIENTS}


def config(tmp_path: Path, name: str, **settings: Any) -> RunConfig:
    keys = {key.replace("_", "-"): value for key, value in settings.items()}
    return RunConfig.from_flat({**SMALL, "output-dir": str(tmp_path), "run-name": name, **keys})


def run(settings: RunConfig) -> Path:
    folder = Path(settings.output_dir) / settings.run_name
    run_in_process(settings, CLIENTS, folder, Console(quiet=True))
    return folder


@pytest.fixture
def started() -> Callable[[], list[psutil.Process]]:
    """Return the processes that a test has started and that are still there."""
    before = psutil.Process().children(recursive=True)
    return lambda: [p for p in psutil.Process().children(recursive=True) if p not in before]


def test_two_workers_end_with_the_numbers_of_one(
    tmp_path: Path, started: Callable[[], list[psutil.Process]]
) -> None:
    """With state on the clients, measured there, and a calibrator fitted there."""
    settings: dict[str, Any] = {
        "strategy": "scaffold", "optimiser": "sgd(momentum=0.0)", "evaluate-on": "nodes",
        "calibrator": "temperature",
    }  # fmt: skip
    one, two = (run(config(tmp_path, f"{n}", workers=n, **settings)) for n in (1, 2))
    assert_equal_runs(two, one)
    assert (two / "metrics.jsonl").read_bytes() == (one / "metrics.jsonl").read_bytes()
    assert not events(two, "drop")
    assert not (two / client_processes.LOG).exists(), "it is empty"
    assert not started()


def test_a_ctrl_c_while_libraries_are_imported_is_for_the_run_alone(
    tmp_path: Path, started: Callable[[], list[psutil.Process]]
) -> None:
    with ClientProcesses(1, RunConfig.from_flat(SMALL).flat(), CLIENTS, 1, tmp_path):
        (starter,) = started()
        assert os.getpgid(starter.pid) != os.getpgid(0)
    assert not starter.is_running()


def test_one_that_dies_costs_a_reply_one_that_hangs_too_and_a_closed_socket_ends_all(
    tmp_path: Path, started: Callable[[], list[psutil.Process]]
) -> None:
    (tmp_path / "run").mkdir()
    names = {"DiesOnce": "died", "HangsOnce": "hung"}
    loss = " + ".join(f"broken_losses:{n}(marker='{tmp_path / m}')" for n, m in names.items())
    flat = config(tmp_path, "run", loss=loss, round_timeout=10.0).flat()
    adapter = Node.from_configs(flat, NODE, 1).classifier().export()
    with ClientProcesses(2, flat, CLIENTS, 1, tmp_path / "run") as processes:
        grid = InProcessGrid(in_process.client_app, flat, CLIENTS, processes=processes)

        def first_replies(*nodes: int) -> list[Message]:
            plan = RoundPlan(1, adapter, tuple(map(str, nodes)))
            asked = grid.push_messages(encode_train(plan, {n: str(n - 1) for n in nodes}, 1))
            while not (replies := list(grid.pull_messages(asked))):
                pass
            return replies

        (reply,) = first_replies(3)
        assert reply.error.reason == "its process ended with exit code 1"
        (reply,) = first_replies(1, 2)  # though the other hangs
        assert not reply.has_error()
        before = {process.pid for process in processes._processes}
        assert len(before) == 2
        assert [reply.has_error() for reply in first_replies(3)] == [False]
        after = {process.pid for process in processes._processes if process.pid}
        assert len(before & after) == 1, "nobody waits for what the other is at"

        (tmp_path / "hung").unlink()
        grid.push_messages(encode_train(RoundPlan(1, adapter, ("0",)), {1: "0"}, 1))
        (task,) = [Task(m, grid._context(m)) for m in grid._pending.values()][-1:]
        processes._hand_out({"hangs": task})
        while not (tmp_path / "hung").exists():
            time.sleep(0.1)
        family = started()
        assert len(family) == 3
        for process in processes._processes:
            process.channel.close()
        processes._processes.clear()
        assert processes._starter is not None
        processes._starter._control.close()
        _, alive = psutil.wait_procs(family, timeout=60)
        assert not alive


ARRAYS = st.lists(st.floats(width=32, allow_nan=False), max_size=4).map(torch.tensor)
ADAPTERS = st.dictionaries(st.sampled_from(["a.weight", "b", "c.0"]), ARRAYS)


@given(st.dictionaries(st.sampled_from(["arrays", "aux", "own"]), ADAPTERS), ADAPTERS)
def test_frames_hold_a_message_and_its_context(
    content: Mapping[str, dict[str, torch.Tensor]], kept: dict[str, torch.Tensor]
) -> None:
    InProcessGrid(in_process.client_app, {}, 1, run_id=5)  # says who sends
    records = RecordDict({name: ArrayRecord(adapter) for name, adapter in content.items()})
    records["config"] = ConfigRecord({"text": "é", "raw": b"\0", "on": True, "n": -3, "x": 0.1})
    records["numbers"] = MetricRecord({"loss": 0.1, "each": [1.5, 2.5]})
    state = RecordDict({"kept": ArrayRecord(kept)})
    context = Context(5, 1, dict(NODE), state, {"seed": 3, "method": "lora", "rate": 0.1})
    sent = Message(records, dst_node_id=1, message_type="train")
    sent.metadata.__dict__["_message_id"] = "seven"
    message, found = read_task(task_frames(sent, context))
    assert message.metadata.message_id == "seven"
    assert message.metadata.message_type == "train"
    assert message.content == records
    assert found == context
    reply, later = read_answer(answer_frames(Message(records, reply_to=message), state))
    assert reply.metadata.reply_to_message_id == "seven"
    assert reply.content == records
    assert later == state
    error = Message(Error(2, "no disk"), reply_to=message)
    refused, later = read_answer(answer_frames(error, state))
    assert (refused.error.code, refused.error.reason) == (2, "no disk")
    assert later == state


class Standby:
    """Takes tasks after so many seconds of others' work, and answers each with an error."""

    def __init__(self, after: float) -> None:
        self.after, self.loads, self.asked = after, 0, list[list[str]]()

    def load(self) -> None:
        self.loads += 1

    def take_tasks(self, seconds: float) -> bool:
        return seconds > self.after

    def answers(self, tasks: Mapping[str, Task], since: float) -> Iterator[tuple[str, Message]]:
        self.asked.append(list(tasks))
        for identifier, task in tasks.items():
            yield identifier, Message(Error(8, "elsewhere"), reply_to=task.message)


def test_clients_are_computed_here_until_processes_are_worth_it_and_queries_always() -> None:
    asked = list[str]()

    def answers(message: Message, context: Context) -> Message:
        asked.append(message.metadata.message_type)
        time.sleep(0.02)
        return Message(RecordDict(), reply_to=message)

    standby: Any = Standby(after=0.03)
    app: Any = answers
    grid = InProcessGrid(app, {}, 4, processes=standby)

    def send(kind: str) -> list[bool]:
        messages = [Message(RecordDict(), node, kind) for node in (1, 2, 3, 4)]
        return [reply.has_error() for reply in grid.send_and_receive(messages)]

    assert send("query.hello") == [False] * 4
    assert standby.loads == 4
    assert send("train") == [False, False, True, True]
    assert send("evaluate") == [True] * 4
    assert send("query.hello") == [False] * 4
    assert asked == ["query.hello"] * 4 + ["train"] * 2 + ["query.hello"] * 4
    assert [len(tasks) for tasks in standby.asked] == [2, 4]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 4),
        ({"threads": 2}, 2),
        ({"fraction-train": 0.3}, 3),
        ({"fraction-train": 0.01}, 1),
        ({"fraction-train": 0.01, "min-train-clients": 2}, 2),
        ({"fraction-train": 0.01, "evaluate-on": "nodes"}, 4),
        ({"workers": 1}, 1),
        ({"workers": 7}, 7),
        ({"workers": 70}, 10),
    ],
)
def test_there_are_as_many_workers_as_cores_and_clients(
    settings: dict[str, Any], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 4)
    monkeypatch.setattr(machine, "free_memory", lambda: 100 * 2.0**30)
    config = RunConfig.from_flat({"device": "cpu", **settings})
    assert in_process._workers_of(config, 10) == expected


def test_memory_is_set_aside_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 64)
    monkeypatch.setattr(machine, "free_memory", lambda: 7.4 * 2.0**30)  # 4 times 1.5 GiB and more
    assert machine.at_once(0, threads=1) == 4
    monkeypatch.setattr(machine, "free_memory", lambda: 0.1 * 2.0**30)
    assert machine.at_once(0, threads=1) == 1


def test_a_system_without_fork_has_one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.fork")
    assert in_process._workers_of(RunConfig(device="cpu"), 10) == 1
    with pytest.raises(UserError, match="workers: expected 0 or 1 on this system, found 2"):
        in_process._workers_of(RunConfig(workers=2), 10)
