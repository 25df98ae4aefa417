"""The round loop: a fold over rounds, until none is left or none would come to anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fl2ora.server_app.rounds import Run, RunState, chosen_of, least_of, rows_of, run_round


def run_rounds(
    state: RunState, run: Run, asked_to_end: Callable[[], object] = lambda: False
) -> RunState:
    """Run all rounds that are left, or until the process is asked to end; save each state.

    A run that cannot make progress gives up; see ``_hopeless``.
    """
    idle = 0
    while not is_over(state, run.context.config.num_rounds):
        if reason := _hopeless(run, state.round + 1, idle, asked_to_end):
            return state if asked_to_end() else _given_up(run, state, reason)
        state = run_round(state, run)
        used, asked = state.last
        idle = idle + 1 if used < min(least_of(run), asked) else 0
        ends = bool(asked_to_end())
        if run.checkpoints is not None:
            last = ends or is_over(state, run.context.config.num_rounds)
            run.checkpoints.save(state, run, last=last)
        if ends:
            break
    return state


def is_over(state: RunState, num_rounds: int) -> bool:
    """Return whether no round is left."""
    return state.round >= num_rounds or bool(state.stop)


def _hopeless(run: Run, number: int, idle: int, asked_to_end: Callable[[], object]) -> str:
    """Return why a next round would come to nothing, or nothing; wait for nodes that are away."""
    config, least, chosen = run.context.config, least_of(run), chosen_of(run, number)
    if config.max_idle_rounds and idle >= config.max_idle_rounds:
        return f"{idle} rounds in a row had too few usable updates (max-idle-rounds)"
    there = run.clients.await_some(chosen, least, number, asked_to_end)
    if there >= min(least, len(chosen)):
        return ""
    return (
        f"{there} of the {len(chosen)} clients of round {number} are online, {least} needed, "
        f"after {config.start_timeout:g} s (start-timeout)"
    )


def _given_up(run: Run, state: RunState, reason: str) -> RunState:
    """Put the end on record; measure the adapter if it was not, or not on all images."""
    tracker, config = run.context.tracker, run.context.config
    tracker.log("gave-up", round=state.round, reason=reason)
    partly = config.eval_share < 1 and state.round > 0
    if (state.round % config.eval_every or partly) and not state.stop:
        rows = run.context.evaluation.measure(state.round, state.adapter)
        for source, values in rows.items():
            tracker.metrics(state.round, source, values)
        kept = [r for r in state.history if r["round"] != state.round or r["source"] not in rows]
        state = replace(state, history=(*kept, *rows_of(state.round, rows)))
    return replace(state, gave_up=reason)
