"""Truncated weights, and a client that lies about its size."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import torch
from flwr.app import Context, Message
from hypothesis import given
from hypothesis import strategies as st

from fl2ora.server_app.client_weights import most_images
from fl2ora.strategies.updates import WeightedMean
from misbehaving import Wrapped
from runs import events, final_adapter, run_small

SIZES = st.lists(st.integers(0, 60), min_size=1, max_size=8)


@given(SIZES, st.fractions(Fraction(1, 20), 1, max_denominator=1000))
def test_the_most_is_the_largest_that_keeps_every_share_within_the_limit(
    sizes: list[int], share: Fraction
) -> None:
    def fits(most: int) -> bool:
        return most <= share * sum(min(size, most) for size in sizes)

    expected = max((u for u in range(1, max([1, *sizes]) + 1) if fits(u)), default=1)
    assert most_images(sizes, float(share)) == expected


def lies(message: Message, context: Context, reply: Message) -> Message:
    """Node 2 says it trains on a million images; in the handshake it told the truth."""
    if message.metadata.message_type == "train" and context.node_id == 2:
        reply.content.metric_records["metrics"]["num-examples"] = 1_000_000
    return reply


def test_a_client_that_lies_about_its_size_is_dropped(tmp_path: Path) -> None:
    folder = run_small(tmp_path, client_app=Wrapped(lies), num_rounds=1)
    (node,) = [n for n in events(folder, "nodes")[0]["nodes"] if n["client"] == "1"]
    assert [(d["client"], d["reason"]) for d in events(folder, "drop")] == [
        ("1", f"num-examples: expected {node['train']}, found 1000000")
    ]


@pytest.mark.parametrize("share", [0.4, 0.2])
def test_no_client_counts_for_more_than_its_share(tmp_path: Path, share: float) -> None:
    app = Wrapped()
    settings = {"partition": "dirichlet(beta=0.3)", "num_rounds": 1}
    folder = run_small(tmp_path, client_app=app, max_client_weight=share, **settings)
    replies = [reply.content for _, reply in app.replies_to("train")]
    sizes = [int(content.metric_records["metrics"]["num-examples"]) for content in replies]
    assert max(sizes) > 0.4 * sum(sizes), "nothing to truncate"
    # Of three clients none can have less than a third: then all count alike.
    weights = [1] * 3 if share == 0.2 else [min(n, most_images(sizes, share)) for n in sizes]
    assert share == 0.2 or max(weights) <= 0.4 * sum(weights)
    mean = WeightedMean()
    for content, weight in zip(replies, weights, strict=True):
        mean.add(content.array_records["arrays"].to_torch_state_dict(), weight)
    assert all(torch.equal(t, mean.result()[n]) for n, t in final_adapter(folder).items())
    assert {e["num-examples"] for e in events(folder, "client")} == set(sizes)


def test_a_claim_made_in_the_handshake_too_is_bounded(tmp_path: Path) -> None:
    def everywhere(message: Message, context: Context, reply: Message) -> Message:
        if message.metadata.message_type == "query.hello" and context.node_id == 2:
            reply.content.config_records["node"]["num_train"] = 1_000_000
        return lies(message, context, reply)

    app = Wrapped(everywhere)
    settings = {"num_rounds": 1, "max_client_weight": 0.4, "evaluate_on": "nodes"}
    folder = run_small(tmp_path, client_app=app, **settings)
    assert not events(folder, "drop")
    replies = {node: reply.content for node, reply in app.replies_to("train")}
    sizes = {n: int(c.metric_records["metrics"]["num-examples"]) for n, c in replies.items()}
    # Two honest clients of n images each leave the third at most 0.4 / 0.6 * 2 n.
    honest = sizes[1] + sizes[3]
    sizes[2] = int(Fraction(4, 6) * honest)
    mean = WeightedMean()
    for node, content in replies.items():
        mean.add(content.array_records["arrays"].to_torch_state_dict(), sizes[node])
    assert all(torch.equal(t, mean.result()[n]) for n, t in final_adapter(folder).items())
