"""What a run came to: how many updates it used, and whether that can be called training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fl2ora.reporting.sources import main_source
from fl2ora.server_app.client_means import LOSS
from fl2ora.server_app.rounds import TRAINING, Row, RunState

_CLEARLY = 1.1


@dataclass(frozen=True)
class Outcome:
    """Said in the summary, on the terminal and in the event ``finished``.

    Attributes:
        updates: used in all rounds.
        asked: how many were asked for.
        warning: what is odd about the result, or empty.
        failure: why the run must not count as a success, or empty.
    """

    updates: int
    asked: int
    warning: str = ""
    failure: str = ""


def outcome_of(state: RunState) -> Outcome:
    """Judge a run by its record.

    It failed if it gave up, if no update was used, or in its last round fewer than half of those
    asked for: one client that died can take others with it, and what then comes out is a run of
    other clients than the configuration says. It is warned of where the loss rose; see ``_rise``.
    """
    failure = ""
    used, asked = state.last
    if state.round and not state.updates:
        failure = (
            f"not one update of a client was used in {state.round} rounds, so nothing was trained"
        )
    elif state.gave_up:
        failure = f"the run ended after round {state.round}: {state.gave_up}"
    elif 2 * used < asked:
        failure = (
            f"the updates of only {used} of the {asked} clients asked in the last round were used"
        )
    return Outcome(state.updates, state.asked, _rise(state.history), failure)


def _rise(history: Sequence[Row]) -> str:
    """Say where the loss rose: a learning rate too large, or a loss of one's own with a fault.

    That is, the last round's training loss is above the first's, and the final NLL of the central
    test set above that set's under zero-shot CLIP; or the last training loss is a tenth above both
    the first and that zero-shot NLL. (Clients that take turns make it vary by less.)
    """
    training = _values(history, TRAINING, LOSS)
    source = main_source(str(row["source"]) for row in history)
    measured = _values(history, source, "nll")
    if len(training) < 2 or not measured:
        return ""
    first, last, zero_shot = training[0], training[-1], measured[0]
    worse = last > first and measured[-1] > zero_shot
    if not worse and last <= _CLEARLY * max(first, zero_shot):
        return ""
    return (
        f"the loss rose: in training from {first:.4g} in the first round to {last:.4g} in the "
        f"last, NLL of {source} from {zero_shot:.4g} zero-shot to {measured[-1]:.4g}; "
        f"a smaller learning-rate may help"
    )


def _values(history: Sequence[Row], source: str, name: str) -> list[float]:
    found = [float(row[name]) for row in history if row["source"] == source and name in row]
    return [value for value in found if math.isfinite(value)]
