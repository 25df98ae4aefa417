"""Ending a run when a metric of validation data no longer gets better."""

from __future__ import annotations

import math

import torch

from fl2ora.calibration.metrics.table import METRICS, chosen_metrics
from fl2ora.clip_tuning.adapter import Adapter
from fl2ora.experiment.errors import UserError, listed, nearest
from fl2ora.reporting.sources import CLIENTS_VALIDATION
from fl2ora.server_app.callbacks.base import Callback, Reaction, RoundReport, RunContext


class EarlyStop(Callback):
    """Stops after ``patience`` measured rounds without a better value.

    Measured are the images the clients keep to fit calibrators, pooled: what is chosen on test data
    can no longer be measured on it. A value that is missing once there was one is no better.

    Args:
        patience: measured rounds without an improvement, at least 1.
        metric: any metric that has a better direction.
        least: by how much a value must be better to count.
    """

    parts = frozenset({"validation"})

    def __init__(self, patience: int = 3, metric: str = "nll", least: float = 0.0) -> None:
        if patience < 1:
            raise UserError(f"patience: expected at least 1 round, found {patience}")
        if not 0 <= least < math.inf:
            raise UserError(f"least: expected a finite number of at least 0, found {least}")
        directed = {m.name: m.better for m in METRICS if m.better is not None}
        if metric not in directed:
            raise UserError(
                f"metric: expected one of {listed(directed)}, found {metric!r}"
                f"{nearest(metric, directed)}"
            )
        self._patience, self._metric, self._least = patience, metric, least
        self._sign = 1.0 if directed[metric] == "lower" else -1.0
        self._best, self._since = math.inf, 0

    def on_start(self, run: RunContext) -> None:
        """Refuse a metric that the run does not measure.

        Raises:
            UserError: it is not among the run's ``metrics``.
        """
        measured = {metric.name for metric in chosen_metrics(run.config.metrics)}
        if self._metric not in measured:
            raise UserError(
                f"early_stop: metric: expected one of the run's metrics, found {self._metric!r}: "
                f"name it in metrics too, as in {run.config.metrics + ' + ' + self._metric!r}"
            )

    def after_round(self, report: RoundReport) -> Reaction | None:
        """Compare with the best so far.

        Raises:
            UserError: no client has such images, or the metric has never had a value on them.
        """
        if len(report.metrics) == 1:  # of training alone: nothing was measured in this round
            return None
        measured = report.metrics.get(CLIENTS_VALIDATION, {})
        value = measured.get(self._metric, math.nan)
        if math.isnan(value) and self._best == math.inf:
            raise UserError(self._reason(bool(measured), report.plan.round))
        if self._sign * value < self._best - self._least:
            self._best, self._since = self._sign * value, 0
            return None
        self._since += 1
        if self._since < self._patience:
            return None
        best = self._sign * self._best
        return Reaction(
            stop=f"{self._metric} of {CLIENTS_VALIDATION} not better than {best:.6g} for "
            f"{self._since} measured rounds"
        )

    def _reason(self, measured: bool, server_round: int) -> str:
        if measured:
            return (
                f"early_stop: metric: {self._metric!r} has no value on the clients' calibration "
                f"images in round {server_round}, where it is undefined: expected another metric"
            )
        return (
            "early_stop: expected sums over the clients' calibration images, found none: raise "
            "calibration-fraction, or see under 'drop' in events.jsonl why no client sent any"
        )

    def state(self) -> Adapter:
        """Return the best value and how long ago it was."""
        return {"best": torch.tensor([self._best]), "since": torch.tensor([float(self._since)])}

    def load_state(self, state: Adapter) -> None:
        """Take them up."""
        self._best, self._since = float(state["best"]), int(state["since"])
