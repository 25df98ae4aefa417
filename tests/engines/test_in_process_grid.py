"""Nodes in this process behave as others do: a memory and config each, errors as replies."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fl2ora.engines.in_process_grid import InProcessGrid


def counting_app() -> ClientApp:
    """Return an app that says how often its node was asked, and what its node config is."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        before = context.state.config_records.get("asked", ConfigRecord({"times": 0}))["times"]
        assert isinstance(before, int)
        context.state["asked"] = ConfigRecord({"times": before + 1})
        if context.node_config.get("broken"):
            raise ValueError("no disk")
        found: dict[str, Any] = {**context.node_config, "times": before + 1}
        return Message(RecordDict({"found": ConfigRecord(found)}), reply_to=message)

    return app


def questions(*nodes: int) -> list[Message]:
    return [Message(RecordDict(), dst_node_id=node, message_type="train") for node in nodes]


def found(reply: Message) -> dict[str, Any]:
    return dict(reply.content.config_records["found"])


def test_every_node_remembers_for_itself() -> None:
    grid = InProcessGrid(counting_app(), {}, 2)
    times = [
        [found(reply)["times"] for reply in grid.send_and_receive(questions(*nodes))]
        for nodes in ((1, 2), (1,), (1, 2))
    ]
    assert times == [[1, 1], [2], [3, 2]]


def test_node_configs_are_shares_with_what_differs() -> None:
    grid = InProcessGrid(counting_app(), {}, 3, node_configs={1: {"rank": 4}})
    assert list(grid.get_node_ids()) == [1, 2, 3]
    replies = [found(reply) for reply in grid.send_and_receive(questions(1, 2, 3))]
    assert [r["partition-id"] for r in replies] == [0, 1, 2]
    assert {r["num-partitions"] for r in replies} == {3}
    assert [r.get("rank") for r in replies] == [None, 4, None]


def test_what_an_app_raises_is_a_reply_with_the_reason() -> None:
    grid = InProcessGrid(counting_app(), {}, 2, node_configs={0: {"broken": True}})
    first, second = grid.send_and_receive(questions(1, 2))
    assert first.error.reason == "ValueError: no disk"
    assert first.metadata.src_node_id == 1
    assert not second.has_error()


def test_only_the_replies_asked_for_are_computed_and_each_once() -> None:
    grid = InProcessGrid(counting_app(), {}, 2)
    one, two = grid.push_messages(questions(1, 2))
    assert [r.metadata.reply_to_message_id for r in grid.pull_messages([two])] == [two]
    assert [r.metadata.reply_to_message_id for r in grid.pull_messages([one, two])] == [one]
    assert list(grid.pull_messages([one, two])) == []


def test_the_run_cannot_be_changed() -> None:
    grid = InProcessGrid(counting_app(), {}, 1, run_id=77)
    assert grid.run.run_id == 77
    with pytest.raises(RuntimeError, match="belongs to one run"):
        grid.set_run(grid.run)


def test_contexts_of_nodes_that_keep_nothing_do_not_stay_in_memory() -> None:
    seen: list[weakref.ref[Context]] = []
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        seen.append(weakref.ref(context))
        if context.node_id == 2:
            context.state["mine"] = ConfigRecord({"times": 1})
        return Message(RecordDict(), reply_to=message)

    grid = InProcessGrid(app, {"seed": 3}, 50)
    nodes = [*grid.get_node_ids()]
    messages = [Message(RecordDict(), dst_node_id=n, message_type="query") for n in nodes]
    assert not any(reply.has_error() for reply in grid.send_and_receive(messages))
    gc.collect()
    alive = [context for context in (known() for known in seen) if context is not None]
    assert [context.node_id for context in alive] == [2]
    assert alive[0].run_config == {"seed": 3}


@pytest.mark.parametrize("node", [0, 3])
def test_there_is_no_other_node(node: int) -> None:
    with pytest.raises(KeyError, match=f"node {node}: expected 1 to 2"):
        list(InProcessGrid(counting_app(), {}, 2).send_and_receive(questions(node)))
