"""One round: from one state of the run to the next."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Literal

from fl2ora.clip_tuning.adapter import Adapter, as_adapter, check_finite, check_like
from fl2ora.experiment.blame import blaming
from fl2ora.server_app.callbacks.base import Callback, Reaction, RoundReport, RunContext
from fl2ora.server_app.client_means import LOSS, ClientMeans
from fl2ora.server_app.clients import Clients
from fl2ora.server_app.sampling import sample
from fl2ora.strategies.base import RoundPlan, Strategy
from fl2ora.strategies.updates import ClientUpdate, checked_metrics

if TYPE_CHECKING:
    from fl2ora.server_app.checkpoints import Checkpoints

TRAINING = "training"
Row = Mapping[str, float | str]


@dataclass(frozen=True)
class RunState:
    """Everything a run must remember between two rounds; all random streams follow from its seed.

    Attributes:
        round: rounds done.
        adapter: the global adapter.
        strategy: what the strategy remembers.
        callbacks: what each callback remembers, in their order.
        history: every row of metrics so far, with its ``round`` and ``source``.
        updates: usable updates so far.
        asked: how many clients were asked for one so far.
        last: usable updates and clients asked of the last round.
        stop: why the run ended before its last round, or empty.
        gave_up: why it could not go on, or empty; not saved, as a resume may find that it can.
    """

    round: int
    adapter: Adapter
    strategy: Adapter = field(default_factory=dict)
    callbacks: tuple[Adapter, ...] = ()
    history: tuple[Row, ...] = ()
    updates: int = 0
    asked: int = 0
    last: tuple[int, int] = (0, 0)
    stop: str = ""
    gave_up: str = ""


@dataclass(frozen=True)
class Run:
    """What a run consists of and does not change.

    Attributes:
        context: its settings, folder, record, model and evaluation.
        clients: the nodes.
        strategy: plans rounds and aggregates updates.
        callbacks: in the order in which they are asked.
        checkpoints: save its state after a round; None: nobody does.
    """

    context: RunContext
    clients: Clients
    strategy: Strategy
    callbacks: Sequence[Callback]
    checkpoints: Checkpoints | None = None

    def load(self, state: RunState) -> None:
        """Let strategy and callbacks take up where a saved state left off."""
        with blaming(self.strategy):
            self.strategy.load_state(state.strategy)
        for callback, remembered in zip(self.callbacks, state.callbacks, strict=True):
            with blaming(callback):
                callback.load_state(remembered)


def run_round(state: RunState, run: Run) -> RunState:
    """Run one round: choose clients, let them train, aggregate, measure; return the next state."""
    number, config = state.round + 1, run.context.config
    plan = _plan(run, state.adapter, number)
    report, used = _train(run, plan)
    report, stop = _react(run, "after_training", report)
    whole = bool(stop) or number == config.num_rounds
    if whole or number % config.eval_every == 0:
        report = _measured(run, report, whole=whole)
    report, later = _react(run, "after_round", report)
    if later and not whole and (len(report.metrics) == 1 or config.eval_share < 1):
        report = _measured(run, report, whole=True)
    return _next_state(run, state, report, used, stop or later)


def least_of(run: Run) -> int:
    """Return how many usable updates a round needs."""
    return max(run.context.config.min_train_clients, run.strategy.least_updates)


def chosen_of(run: Run, number: int) -> list[str]:
    """Return the clients of a round."""
    config = run.context.config
    return sample(run.clients.keys, config.fraction_train, least_of(run), config.seed, number)


def _plan(run: Run, adapter: Adapter, number: int) -> RoundPlan:
    """Choose the round's clients and let the strategy say what they are sent."""
    chosen = chosen_of(run, number)
    run.context.tracker.log("round-start", round=number, clients=chosen)
    with blaming(run.strategy):
        plan = run.strategy.plan(number, adapter, chosen)
        if not isinstance(plan, RoundPlan):
            raise TypeError(f"plan: expected a RoundPlan, found {type(plan).__name__}")
        if unknown := sorted(set(plan.clients) - set(run.clients.keys)):
            raise ValueError(f"plan: no clients of this run: {', '.join(unknown)}")
    return plan


def _train(run: Run, plan: RoundPlan) -> tuple[RoundReport, int]:
    """Let the clients train and aggregate; return the report and the number of usable updates."""
    started, means = time.monotonic(), ClientMeans()
    updates = _watched(run.clients.train(plan, run.strategy), plan, means, run.callbacks)
    adapter, metrics = _aggregate(run, plan, updates), means.result()
    if adapter is not plan.current:  # else the strategy's numbers would be of an earlier round
        with blaming(run.strategy):
            # What clients report is counted here, whatever a strategy calls its own numbers.
            metrics = {**checked_metrics(run.strategy.metrics()), **metrics}
    seconds = round(time.monotonic() - started, 3)
    tracker, loss = run.context.tracker, metrics.get(LOSS)
    tracker.log("round-end", round=plan.round, duration=seconds, loss=loss)
    down, up = run.clients.bytes_down, run.clients.bytes_up
    return RoundReport(plan, adapter, {TRAINING: metrics}, down, up), means.updates


def _watched(
    updates: Iterable[ClientUpdate],
    plan: RoundPlan,
    means: ClientMeans,
    callbacks: Sequence[Callback],
) -> Iterator[ClientUpdate]:
    """Yield updates as they come and show each to the means and the callbacks."""
    for update in updates:
        means.on_update(plan, update)
        for callback in callbacks:
            with blaming(callback):
                callback.on_update(plan, update)
        yield update


def _aggregate(run: Run, plan: RoundPlan, updates: Iterator[ClientUpdate]) -> Adapter:
    """Return the next global adapter; the current one where too few updates are usable."""
    least = least_of(run)
    first = list(islice(updates, min(least, len(plan.clients))))
    if len(first) < min(least, len(plan.clients)):
        run.context.tracker.log("adapter-kept", round=plan.round, usable=len(first), expected=least)
        return plan.current
    with blaming(run.strategy):
        following = as_adapter(run.strategy.aggregate(plan, chain(first, updates)))
        check_like(following, plan.current, "the adapter it made")
        check_finite(following, "the adapter it made")
    return following


def _react(
    run: Run, hook: Literal["after_training", "after_round"], report: RoundReport
) -> tuple[RoundReport, str]:
    """Let each callback react, seeing what those before it did; return why to stop, or nothing."""
    stop = ""
    for callback in run.callbacks:
        with blaming(callback):
            reaction: Reaction | None = getattr(callback, hook)(report)
            if reaction is None:
                continue
            report = _with(report, reaction, hook)
        stop = stop or reaction.stop
    return report, stop


def _with(report: RoundReport, reaction: Reaction, hook: str) -> RoundReport:
    """Return the report with what a callback made of it.

    Raises:
        TypeError, ValueError: what it returned cannot be used; see ``Reaction``.
    """
    if not isinstance(reaction, Reaction):
        raise TypeError(f"{hook}: expected a Reaction or None, found {type(reaction).__name__}")
    adapter = report.adapter
    if reaction.adapter is not None:
        if hook != "after_training":
            raise ValueError(
                f"{hook}: the round has been measured with its adapter; a new one is taken in "
                "after_training alone"
            )
        adapter = as_adapter(reaction.adapter)
        check_like(adapter, report.adapter, "the adapter it made")
        check_finite(adapter, "the adapter it made")
    training = {**report.metrics[TRAINING], **checked_metrics(reaction.metrics)}
    return replace(report, adapter=adapter, metrics={**report.metrics, TRAINING: training})


def _measured(run: Run, report: RoundReport, *, whole: bool) -> RoundReport:
    found = run.context.evaluation.measure(report.plan.round, report.adapter, whole=whole)
    return replace(report, metrics={**report.metrics, **found})


def _next_state(run: Run, state: RunState, report: RoundReport, used: int, stop: str) -> RunState:
    """Put the round on record and return the state after it."""
    number, tracker = report.plan.round, run.context.tracker
    sources = {source: values for source, values in report.metrics.items() if values}
    for source, values in sources.items():
        tracker.metrics(number, source, values)
    if stop:
        tracker.log("stopped", round=number, reason=stop)
    return RunState(
        round=number,
        adapter=report.adapter,
        strategy=_remembered(run.strategy),
        callbacks=tuple(_remembered(callback) for callback in run.callbacks),
        history=state.history + rows_of(number, sources),
        updates=state.updates + used,
        asked=state.asked + len(report.plan.clients),
        last=(used, len(report.plan.clients)),
        stop=stop,
    )


def _remembered(plugin: Strategy | Callback) -> Adapter:
    with blaming(plugin):
        return as_adapter(plugin.state())


def rows_of(number: int, sources: Mapping[str, Mapping[str, float]]) -> tuple[Row, ...]:
    """Return one row for each source of a round, as a run's state keeps them."""
    return tuple({"round": number, "source": name, **found} for name, found in sources.items())
