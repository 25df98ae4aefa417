"""Ending a run when a metric of validation data no longer gets better."""

from __future__ import annotations

import torch

from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.experiment.errors import UserError
from fl2ora.reporting.sources import CLIENTS_VALIDATION
from fl2ora.server_app.callbacks.base import Reaction, RoundReport
from fl2ora.server_app.callbacks.best_round import BestRound


class EarlyStop(BestRound):
    """Stops after ``patience`` measured rounds without a better value; keeps the best round's.

    Args:
        patience: measured rounds without an improvement, at least 1.
        metric: see ``BestRound``.
        least: see ``BestRound``.
    """

    def __init__(self, patience: int = 3, metric: str = "nll", least: float = 0.0) -> None:
        if patience < 1:
            raise UserError(f"patience: expected at least 1 round, found {patience}")
        super().__init__(metric, least)
        self._patience, self._since = patience, 0

    def after_round(self, report: RoundReport) -> Reaction | None:
        """Compare with the best so far; stop where that has been so for too long."""
        improves = self.improves(report)
        if improves is None:
            return None
        self._since = 0 if improves else self._since + 1
        if self._since < self._patience:
            return None
        return Reaction(
            stop=f"{self._metric} of {CLIENTS_VALIDATION} not better than {self.best:.6g} for "
            f"{self._since} measured rounds"
        )

    def state(self) -> Adapter:
        """Return the best round, and how long ago it was."""
        return {**super().state(), "since": torch.tensor([float(self._since)])}

    def load_state(self, state: Adapter) -> None:
        """Take them up."""
        super().load_state(state)
        self._since = int(state["since"])
