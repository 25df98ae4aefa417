"""A run says how many updates it used, fails where that is too few, and warns of a rising loss."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from flwr.app import Context, Message

from fl2ora.experiment.errors import UserError
from fl2ora.server_app.outcome import Outcome, outcome_of
from fl2ora.server_app.rounds import RunState
from misbehaving import Wrapped
from runs import events, final_adapter, run_small


def state(losses: list[float], nll: list[float], last: tuple[int, int] = (4, 4)) -> RunState:
    rows = [{"round": r, "source": "training", "loss": loss} for r, loss in enumerate(losses, 1)]
    rows += [{"round": r, "source": "server-test", "nll": value} for r, value in enumerate(nll)]
    asked = 4 * len(losses)
    return RunState(
        len(losses), {}, history=tuple(rows), updates=asked - last[1] + last[0], asked=asked,
        last=last,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("losses", "nll", "rose"),
    [
        ([0.9, 0.5, 0.4], [1.0, 0.7, 0.6], False),
        ([0.5, 0.9], [1.0, 0.7], False),  # rose, but all is better than zero-shot
        ([5.0, 4.0], [1.0, 1.4], False),  # worse than zero-shot, but falling
        ([0.5, 1.09], [1.0, 0.7], False),  # not clearly above zero-shot
        ([1.2, 1.3], [1.0, 0.7], False),  # not clearly above the first round
        ([0.5, 1.2], [1.0, 0.7], True),
        ([0.5, 0.6], [1.0, 1.1], True),
        ([0.5, 80.0, 0.4], [1.0, 9.0, 0.9], False),  # rose, and came back
        ([3.0], [1.0, 9.0], False),  # one round has no course
        ([0.5, 1.2], [], False),
    ],
)
def test_a_warning_where_the_loss_rose_above_zero_shot(
    losses: list[float], nll: list[float], rose: bool
) -> None:
    warning = outcome_of(state(losses, nll)).warning
    assert warning.startswith("the loss rose: ") == rose
    assert bool(warning) == rose


@pytest.mark.parametrize(("last", "fails"), [((4, 4), False), ((2, 4), False), ((1, 4), True)])
def test_fewer_than_half_in_the_last_round_is_a_failure(last: tuple[int, int], fails: bool) -> None:
    found = outcome_of(state([0.9, 0.5], [1.0, 0.6], last))
    assert found.failure == (
        "the updates of only 1 of the 4 clients asked in the last round were used" if fails else ""
    )
    assert (found.updates, found.asked) == (4 + last[0], 8)


def test_a_run_without_rounds_is_no_failure() -> None:
    assert outcome_of(RunState(0, {})) == Outcome(0, 0)


def failing(nodes: set[int], rounds: set[int]) -> Wrapped:
    def alter(message: Message, context: Context, reply: Message) -> Message:
        if message.metadata.message_type == "train" and context.node_id in nodes:
            number = message.content.config_records["config"]["server-round"]
            if number in rounds:
                raise RuntimeError("actor died")
        return reply

    return Wrapped(alter)


def test_the_record_and_the_summary_say_how_many_updates_were_used(tmp_path: Path) -> None:
    folder = run_small(tmp_path, client_app=failing({2}, {2}))
    (finished,) = events(folder, "finished")
    assert (finished["updates"], finished["asked"], finished["warning"]) == (5, 6, "")
    assert "- updates: 5 of 6 used" in (folder / "summary.md").read_text()


def test_a_run_that_lost_most_clients_fails_after_everything_is_saved(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only 1 of the 3 clients asked in the last round"):
        run_small(tmp_path, client_app=failing({2, 3}, {2}))
    folder = tmp_path / "runs" / "run"
    assert "only 1 of the 3 clients" in events(folder, "failed")[0]["message"]
    assert not events(folder, "finished")
    assert (folder / "summary.md").exists()
    assert final_adapter(folder)


def test_a_run_that_lost_clients_earlier_only_says_so(tmp_path: Path) -> None:
    folder = run_small(tmp_path, client_app=failing({2, 3}, {1}))
    assert events(folder, "finished")[0]["updates"] == 4


def test_a_learning_rate_far_too_large_is_warned_of(tmp_path: Path) -> None:
    folder = run_small(tmp_path, learning_rate=300.0, num_rounds=3)
    (finished,) = events(folder, "finished")
    assert finished["warning"].startswith("the loss rose: in training from ")
    assert "- warning: the loss rose" in (folder / "summary.md").read_text()


def test_an_interrupted_run_says_so(tmp_path: Path) -> None:
    def interrupt(message: Message, context: Context, reply: Message) -> Message:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_small(tmp_path, client_app=Wrapped(interrupt))
    (failed,) = events(tmp_path / "runs" / "run", "failed")
    assert failed["message"] == "interrupted by KeyboardInterrupt"


def test_no_client_is_named_that_was_not_asked(tmp_path: Path) -> None:
    app = failing({1, 2, 3, 4}, {1})
    with pytest.raises(UserError, match="not one update of a client was used in 1 rounds"):
        run_small(tmp_path, clients=4, client_app=app, fraction_train=0.5, num_rounds=1)
    folder = tmp_path / "runs" / "run"
    (start,) = events(folder, "round-start")
    assert sorted(drop["client"] for drop in events(folder, "drop")) == start["clients"]
    assert len(start["clients"]) == 2
    assert all(torch.isfinite(t).all() for t in final_adapter(folder).values())
