"""The checkpoints of a run: which there are, when another is due, and going on without one."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fl2ora.calibration.stats import CalibrationStats
from fl2ora.experiment.fingerprint import code_fingerprint, library_versions
from fl2ora.messages.lineage import Lineage
from fl2ora.reporting.events import METRICS_FILE, JsonLines
from fl2ora.reporting.whole_files import flush
from fl2ora.server_app.checkpoint import FOLDER, Checkpoint, discard

if TYPE_CHECKING:
    from fl2ora.server_app.resuming import Past
    from fl2ora.server_app.rounds import Run, RunState

_KEPT = 2

logger = logging.getLogger(__name__)


class Checkpoints:
    """Saves a run's state between rounds, and forgets older ones.

    Args:
        folder: the run directory.
        every: rounds between two; 0: none.
        tracker: the run's record.
        past: what the run goes on from; None: a new one.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        tracker: JsonLines,
        past: Past | None = None,
    ) -> None:
        self._folder, self._every, self._tracker = folder, every, tracker
        self._runs = () if past is None else past.runs
        self._saved = [past.round] if past is not None and past.checkpoint is not None else []

    @property
    def lineage(self) -> Lineage:
        """What nodes are told: which of what they remember counts, and what to keep."""
        return Lineage(self._runs, tuple(self._saved))

    def save(self, state: RunState, run: Run, *, last: bool) -> None:
        """Save the state after a round if one is due; on a full disk the run goes on without it.

        Args:
            state: after the round.
            run: whose state it is.
            last: no round follows in this process.
        """
        due = self._every and (last or state.round % self._every == 0)
        if not due:
            return
        evaluation, strategy = run.context.evaluation, run.strategy
        try:
            # The checkpoint counts on the rows that are there by now.
            flush(self._folder / METRICS_FILE)
            Checkpoint(
                state,
                self._tracker.place(),
                run.context.config.flat(),
                code_fingerprint(),
                library_versions(),
                {key: info.num_train for key, info in run.clients.infos.items()},
                {n: s for n, s in evaluation.history.items() if not n or _in_tables(s)},
                strategy.unsaved(),
            ).save(self._folder / FOLDER)
        except OSError as error:
            logger.warning("No checkpoint of round %d: %s", state.round, error)
            with contextlib.suppress(OSError):  # there may be no room for this either
                self._tracker.log("checkpoint-failed", round=state.round, reason=str(error))
            return
        self._saved = [*self._saved, state.round][-_KEPT:]
        discard(self._folder, set(self._saved))


def _in_tables(sums: Mapping[str, CalibrationStats]) -> bool:
    """Return whether a table of all rounds is made of these sums."""
    return any(stats.spec.classwise for stats in sums.values())
